"""The compose file, Prometheus's and Grafana's files: they load, what they name exists, and commands are those of the README.

No program of theirs runs here: what can be checked without one is. In `tests/interop`, test_watching has docker-compose and
Prometheus, and test_site runs the services.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_proxy.cli.main import app
from registry_proxy.telemetry.metrics import Metrics
from tests.test_docs import commands

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROMETHEUS = ROOT / "conf/prometheus"
DASHBOARDS = sorted((ROOT / "conf/grafana/dashboards").glob("*.json"))
NAME = re.compile(r"\bregistry_proxy_\w+")


def mounts(service: str) -> Iterator[tuple[str, str]]:
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *_ = volume.split(":")
        yield source, target


def known() -> set[str]:
    """Every time series that the proxy may export."""
    metrics = Metrics(["a.example"])
    metrics.watch_store(_Store)
    return {
        series
        for metric in metrics.registry.collect()
        for series in (metric.name, *(f"{metric.name}_{end}" for end in ("total", "bucket", "sum", "count")))
    }


class _Store:
    bytes = limit = chunks = evictions = writable = 0


def test_the_site_is_complete() -> None:
    """Edge, Squid, parent, Prometheus and Grafana, and nothing that is not declared."""
    assert set(SERVICES) == {"edge", "squid", "parent", "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert ("image" in service) != ("build" in service), name
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        for source, _ in mounts(name):
            assert source.startswith("./") or source in COMPOSE["volumes"], source


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_exists(service: str) -> None:
    """Every path of the tree that a container sees is there."""
    for source, _ in mounts(service):
        assert not source.startswith("./") or (ROOT / source).exists(), source


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_of_this_machine_only(service: str) -> None:
    """Whoever tries it out publishes nothing to the network."""
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", ()))


@pytest.mark.parametrize("service", ["edge", "parent"])
def test_commands_are_those_of_the_readme(service: str) -> None:
    """What a container runs stands in the README, word by word, and is accepted."""
    command = SERVICES[service]["command"]
    assert command in {line for page, line in commands() if page == "README.md"}
    app.parse_args(shlex.split(command)[1:])


def test_the_image_has_all_of_the_program() -> None:
    """What is copied into the image is all that an installation reads, and what it installs is all that lies in the package."""
    copied = set(
        re.findall(r"^COPY (.+) \S+$", COMPOSE["x-registry-proxy"]["build"]["dockerfile_inline"], re.MULTILINE)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert copied == {f"pyproject.toml {project['project']['readme']}", "registry_proxy"}
    files = [
        path for path in (ROOT / "registry_proxy").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    data = {str(path.relative_to(ROOT / "registry_proxy")) for path in files if path.suffix != ".py"}
    assert data == set(project["tool"]["setuptools"]["package-data"]["registry_proxy"])
    assert all((path.parent / "__init__.py").is_file() for path in files if path.suffix == ".py")


def test_services_find_each_other() -> None:
    """The edge's parent and Squid are services, on the ports that those listen on."""
    words = shlex.split(SERVICES["edge"]["command"])
    assert words[words.index("--parent") + 1] == "http://parent:5000"
    assert words[words.index("--forward-proxies") + 1] == "http://squid:3128"
    assert "--listen :5000" in SERVICES["parent"]["command"]
    assert "http_port" not in (ROOT / "conf/squid/squid.conf").read_text()  # Debian's own says 3128


def test_prometheus_asks_both_instances() -> None:
    """The targets are the services, and the rules that are named are mounted beside the file."""
    settings = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    [job] = settings["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["edge:5000", "parent:5000"]}]
    inside = {Path(target).name for _, target in mounts("prometheus")}
    assert set(settings["rule_files"]) <= inside
    words = SERVICES["prometheus"]["command"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in words


def test_rules_name_metrics_that_exist() -> None:
    """An alert on a metric that is gone would never fire."""
    rules = yaml.safe_load((PROMETHEUS / "registry-proxy-alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        assert set(NAME.findall(rule["expr"])) <= known(), rule["alert"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.name)
def test_dashboards_name_metrics_that_exist(file: Path) -> None:
    """Every panel asks for time series that the proxy exports, of the provisioned data source."""
    dashboard = json.loads(file.read_text())
    [source] = yaml.safe_load((ROOT / "conf/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        for target in panel["targets"]:
            found = set(NAME.findall(target["expr"]))
            assert found, target
            asked |= found
    assert asked <= known()
    assert len(asked) >= 12


def test_dashboards_are_where_grafana_looks() -> None:
    """The provider's path is the one that the folder is mounted at."""
    [provider] = yaml.safe_load((ROOT / "conf/grafana/provisioning/dashboards/registry-proxy.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] in {target for _, target in mounts("grafana")}
    assert DASHBOARDS
