"""The compose file by docker-compose itself; Prometheus's and Grafana's files by promtool, and by a Prometheus that watches an instance."""

import itertools
import json
import shutil
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.interop.harness.process import Process, answers, call, free_port, wait_for
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image
from tests.setup.programs import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "conf/prometheus"
[DASHBOARD] = (ROOT / "conf/grafana/dashboards").glob("*.json")
RULES = "registry-proxy-alerts.yml"
JOB = 'instance="a:5000", job="registry-proxy"'

FIRES: dict[
    str, dict[str, str]
] = {  # alert: the series that make it fire, one value a minute (promtool, "unit testing rules")
    "RegistryProxyDown": {f"up{{{JOB}}}": "0x90"},
    "RegistryProxyUpstreamErrors": {
        f'registry_proxy_upstream_errors_total{{{JOB}, upstream="b", kind="UpstreamDown"}}': "0+12x90"
    },
    "RegistryProxyCutsAnswers": {f'registry_proxy_responses_cut_total{{{JOB}, by="proxy"}}': "0+1x90"},
    "RegistryProxyWrongBlob": {f'registry_proxy_blobs_verified_total{{{JOB}, right="false"}}': "0x80 1x10"},
    "RegistryProxyStoreUnwritable": {f"registry_proxy_store_writable{{{JOB}}}": "0x90"},
    "RegistryProxySourceTrouble": {f'registry_proxy_source_up{{{JOB}, source="parent"}}': "0x90"},
}
QUIET = {
    f"up{{{JOB}}}": "1x90",
    f'registry_proxy_upstream_errors_total{{{JOB}, upstream="b", kind="UpstreamDown"}}': "0+1x90",
    f'registry_proxy_responses_cut_total{{{JOB}, by="proxy"}}': "0x90",
    f'registry_proxy_responses_cut_total{{{JOB}, by="client"}}': "0+9x90",
    f'registry_proxy_blobs_verified_total{{{JOB}, right="false"}}': "1x90",
    f'registry_proxy_blobs_verified_total{{{JOB}, right="true"}}': "0+9x90",
    f"registry_proxy_store_writable{{{JOB}}}": "1x84 0 1x5",
    f'registry_proxy_source_up{{{JOB}, source="parent"}}': "1x90",
}


def test_compose_takes_the_file() -> None:
    """docker-compose reads the file against its schema, and every container gets the words and files that we mean."""
    file = ROOT / "docker-compose.yml"
    read = json.loads(call(program("docker-compose"), "--file", file, "config", "--format", "json"))
    written = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    assert set(read["services"]) == set(written)
    for name, service in read["services"].items():
        assert " ".join(service.get("command") or []) == written[name].get("command", "")
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).exists()


def test_promtool_takes_both_configurations(work: Path) -> None:
    """Prometheus's own checker finds nothing wrong in what compose mounts, in what a site scrapes by, and in the rules."""
    for file in PROMETHEUS.iterdir():
        shutil.copy(file, work)
    for name in ("prometheus.yml", "scrape.yml"):
        assert "rules found" in call("promtool", "check", "config", "--lint=all", "--lint-fatal", work / name)


def test_every_alert_fires_when_it_should_and_not_otherwise(work: Path) -> None:
    """Each rule fires for the series that it is about, alone, and all are quiet while things go well."""
    shutil.copy(PROMETHEUS / RULES, work)
    rules = yaml.safe_load((PROMETHEUS / RULES).read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == set(FIRES)
    for name, series in (*FIRES.items(), ("nothing", {})):
        (work / "test.yml").write_text(json.dumps(_unit_test(name, QUIET | series)), encoding="utf-8")
        call("promtool", "test", "rules", work / "test.yml")


def _unit_test(fires: str, series: dict[str, str]) -> dict[str, Any]:
    """Of all rules only this one fires after 90 minutes of these series. What its annotations say is not compared."""
    counted = [
        {
            "expr": f'count(ALERTS{{alertstate="firing", alertname="{name}"}}) or vector(0)',
            "eval_time": "90m",
            "exp_samples": [{"labels": "{}", "value": int(name == fires)}],
        }
        for name in FIRES
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {
        "rule_files": [RULES],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": counted}],
    }


def test_every_panel_has_data(upstream: str, pushed: dict[str, Image], work: Path) -> None:
    """Prometheus scrapes an instance that serves one registry and fails with another: each query of the dashboard finds series."""
    image = pushed["tiny"]
    upstreams = {SOURCE: f"http://{upstream}", "gone.example": "http://127.0.0.1:9"}
    with registry_proxy(work / "proxy", upstreams, "--cvmfs", work) as proxy:
        urllib.request.urlretrieve(f"{proxy.url}/metrics", work / "metrics")
        call("sh", "-c", 'promtool check metrics < "$0"', work / "metrics")
        url, database = f"http://127.0.0.1:{free_port()}", work / "database"
        (work / "prometheus.yml").write_text(json.dumps(_scrape(proxy.address)), encoding="utf-8")
        command = ["prometheus", f"--config.file={work / 'prometheus.yml'}", f"--storage.tsdb.path={database}",
                   f"--web.listen-address={url.removeprefix('http://')}"]  # fmt: skip
        with Process("prometheus", command, work) as process:
            process.ready_when(lambda: answers(f"{url}/-/ready"))
            wait_for("the first scrape", partial(_ask, url, "up == 1"))
            for source, digest in itertools.product(upstreams, image.layer_digests):
                answers(f"{proxy.url}/v2/{source}/{image.repository}/blobs/{digest}")
            for query in _queries():
                wait_for(f"data for {query}", partial(_ask, url, query))


def _scrape(address: str) -> dict[str, Any]:
    job = {"job_name": "registry-proxy", "static_configs": [{"targets": [address]}]}
    return {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": [job]}


def _queries() -> list[str]:
    """What every panel of the dashboard asks, its variables filled in."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    return [query.replace("$instance", ".+").replace("$__rate_interval", "1m") for query in asked]


def _ask(url: str, query: str) -> bool:
    """Whether an instant query finds any series; an invalid one raises HTTPError."""
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10) as answer:
        return bool(json.load(answer)["data"]["result"])
