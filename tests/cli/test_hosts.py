"""What each client is given, parsed the way the client parses it."""

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from registry_proxy.cli import main
from registry_proxy.cli.clients import CLIENTS, ClientFile, mirrors
from registry_proxy.cli.hosts import Client
from registry_proxy.config import Flags, load

CONFIG = load(
    None,
    {"XDG_CACHE_HOME": "/x"},
    Flags(upstreams=("docker.io=https://registry-1.docker.io", "own.example:5001=https://own.example:5001")),
)


def files(client: str, server: str = "http://cache.example:5000", config: Any = CONFIG) -> dict[str, ClientFile]:
    return {file.path: file for file in CLIENTS[client](mirrors(config, server))}


def only(found: dict[str, ClientFile]) -> str:
    [file] = found.values()
    return file.text


@pytest.fixture
def with_listener(tmp_path: Path) -> Any:
    """A configuration where one upstream has a listener of its own."""
    file = tmp_path / "proxy.toml"
    file.write_text("[upstream.'docker.io']\nlisten = ['127.0.0.1:5055']\n")
    return load(file, {"XDG_CACHE_HOME": "/x"})


def test_every_client_on_the_command_line_has_a_template() -> None:
    """The choices of the command line are the templates."""
    assert set(get_args(Client)) == set(CLIENTS)


def test_containerd_gets_one_directory_per_source_host() -> None:
    """containerd: a hosts.toml per source host that pulls and resolves here, and falls back by itself."""
    found = files("containerd")
    assert len(found) == len(CONFIG.upstreams)
    parsed = tomllib.loads(found["/etc/containerd/certs.d/own.example:5001/hosts.toml"].text)
    assert parsed == {"host": {"http://cache.example:5000": {"capabilities": ["pull", "resolve"]}}}


def test_podman_reaches_upstreams_by_path() -> None:
    """podman and CRI-O send no ns: the mirror's location carries the source host."""
    parsed = tomllib.loads(only(files("podman")))["registry"]
    assert parsed[0] == {
        "prefix": "docker.io",
        "location": "docker.io",
        "mirror": [{"location": "cache.example:5000/docker.io", "insecure": True}],
    }
    assert [entry["prefix"] for entry in parsed] == list(CONFIG.upstreams)


def test_apptainer_gets_what_podman_gets() -> None:
    """Apptainer reads the same file in the same place."""
    assert tomllib.loads(only(files("apptainer"))) == tomllib.loads(only(files("podman")))


def test_tls_is_not_called_insecure() -> None:
    """Behind https nothing is marked insecure."""
    assert "insecure = true" not in only(files("podman", "https://cache.example")) + only(
        files("stargz", "https://cache.example")
    )


def test_docker_mirrors_the_hub_alone() -> None:
    """Docker: one mirror, for Docker Hub; none if Docker Hub is not configured."""
    assert json.loads(only(files("docker"))) == {"registry-mirrors": ["http://cache.example:5000"]}


def test_stargz_names_the_source_host_in_a_header() -> None:
    """stargz: host without a path, plain http marked, and the header that tells us the source host."""
    parsed = tomllib.loads(only(files("stargz")))["resolver"]["host"]
    assert parsed["own.example:5001"]["mirrors"] == [
        {"host": "cache.example:5000", "insecure": True, "header": {"OCI-Namespace": "own.example:5001"}}
    ]
    assert set(parsed) == set(CONFIG.upstreams)


def test_soci_images_are_named_after_this_server() -> None:
    """SOCI: plain http to this server's own name, for the snapshotter (which parses `host` as a URL) and for containerd."""
    found = files("soci")
    text = found["/etc/soci-snapshotter-grpc/config.toml"].text
    assert tomllib.loads(text) == {
        "resolver": {
            "host": {"cache.example:5000": {"mirrors": [{"host": "http://cache.example:5000", "insecure": True}]}}
        }
    }
    assert "plain http means that nothing is ever read lazily" in text
    hosts = tomllib.loads(found["/etc/containerd/certs.d/cache.example:5000/hosts.toml"].text)
    assert hosts == {"server": "http://cache.example:5000"}


def test_soci_is_told_of_its_switch_for_plain_tags() -> None:
    """The lines that turn on SOCI v1 are there to be uncommented; behind https nothing is said of plain http."""
    [text] = [file.text for path, file in files("soci", "https://cache.example").items() if "soci" in path]
    switched = text.replace("# [pull_modes", "[pull_modes").replace("# enable", "enable")
    assert tomllib.loads(switched)["pull_modes"] == {"soci_v1": {"enable": True}}
    assert tomllib.loads(text)["resolver"]["host"]["cache.example"]["mirrors"][0]["insecure"] is False
    assert "plain http" not in text


def test_nydus_pings_the_health_url() -> None:
    """nydus: a mirror with the header and a cheap URL to choose it by; Docker Hub under the name nydus gives it."""
    found = files("nydus")
    parsed = tomllib.loads(found["/etc/nydus/certs.d/index.docker.io/hosts.toml"].text)["host"][
        "http://cache.example:5000"
    ]
    assert parsed == {"ping_url": "http://cache.example:5000/healthz", "header": {"OCI-Namespace": "docker.io"}}
    assert "/etc/nydus/certs.d/quay.io/hosts.toml" in found


def test_k3s_gets_endpoints() -> None:
    """k3s: an endpoint per source host."""
    parsed = yaml.safe_load(only(files("k3s")))["mirrors"]
    assert parsed["own.example:5001"] == {"endpoint": ["http://cache.example:5000"]}
    assert set(parsed) == set(CONFIG.upstreams)


def test_an_upstream_with_its_own_listener_is_reached_there(with_listener: Any) -> None:
    """A listener of its own is used by every client, on the host that the clients know, and without a path prefix."""
    assert json.loads(only(files("docker", config=with_listener))) == {
        "registry-mirrors": ["http://cache.example:5055"]
    }
    podman = tomllib.loads(only(files("podman", config=with_listener)))["registry"]
    assert podman[0]["mirror"][0]["location"] == "cache.example:5055"
    assert podman[1]["mirror"][0]["location"] == f"cache.example:5000/{podman[1]['prefix']}"
    assert "http://[::1]:5055" in only(files("docker", "http://[::1]:5000", with_listener))


def test_a_single_file_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output can be redirected into the file; its path is on standard error."""
    assert main.run(["hosts", "docker"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    assert err == "# /etc/docker/daemon.json\n"


def test_several_files_are_printed_with_their_paths(capsys: pytest.CaptureFixture[str]) -> None:
    """Each file is headed by its path."""
    assert main.run(["hosts", "containerd", "--listen", "[::1]:5001"]) == 0
    out, err = capsys.readouterr()
    assert "# /etc/containerd/certs.d/quay.io/hosts.toml\n" in out
    assert '[host."http://[::1]:5001"]' in out
    assert err == ""


def test_files_are_written_where_the_client_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--write puts the files below a directory and names them; writing them again changes nothing."""
    for _ in range(2):
        assert main.run(["hosts", "containerd", "--write", str(tmp_path)]) == 0
        assert f"{tmp_path}/etc/containerd/certs.d/docker.io/hosts.toml\n" in capsys.readouterr().out
    assert (tmp_path / "etc/containerd/certs.d/docker.io/hosts.toml").read_text() == files(
        "containerd", "http://127.0.0.1:5000"
    )["/etc/containerd/certs.d/docker.io/hosts.toml"].text


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that says something else stays, and nothing else is written either."""
    theirs = tmp_path / "etc/containerd/certs.d/quay.io/hosts.toml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("server = 'https://other.example'\n")
    assert main.run(["hosts", "containerd", "--write", str(tmp_path)]) == 1
    assert f"{theirs} is there already" in capsys.readouterr().err
    assert list(tmp_path.rglob("hosts.toml")) == [theirs]
