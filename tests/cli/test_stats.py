"""stats: a running instance's figures, for people and programs."""

import json

import pytest

from registry_proxy.cli import main
from registry_proxy.cli.stats import rows
from tests.cli.conftest import Canned, FakeInstance

FIGURES = {
    "version": "0.1.0",
    "store": {"bytes": 3 << 30, "limit": None, "chunks": 3072, "writable": True},
    "upstreams": {"docker.io": {"rangeless": False}},
}


def test_figures_are_passed_on_as_json(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--json gives what the instance said."""
    fake.put("/stats", Canned(json.dumps(FIGURES).encode()))
    assert main.run(["stats", "--server", server, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FIGURES


def test_figures_are_shown_as_a_table(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nested figures become dotted names, bytes become sizes; a pipe gets whole lines."""
    fake.put("/stats", Canned(json.dumps(FIGURES).encode()))
    assert main.run(["stats", "--server", server]) == 0
    out = capsys.readouterr().out
    assert server in out
    assert "store.bytes" in out
    assert "3.0 GiB" in out


def test_tiers_and_sources_are_tables(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each, with what it had and how it is; what only some have goes under its name."""
    asked = {"hit": 1200, "miss": 3, "failure": 2, "bytes": 5 << 20, "seconds": 0.0123}
    parent = {
        "name": "parent",
        "state": "trouble: no answer",
        **asked,
        "ways": {"http://squid:3128": "left out for now"},
    }
    tier = {"name": "cvmfs:/images", "path": "/images", "state": "works", **asked, "seconds": None}
    fake.put("/stats", Canned(json.dumps({"version": "0.1.0", "tiers": [tier], "sources": [parent]}).encode()))
    assert main.run(["stats", "--server", server]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    row = ["│", "1,200", "│", "3", "│", "2", "│", "5.0", "MiB", "│"]
    assert ["parent", "│", "trouble:", "no", "answer", *row, "12.3", "ms"] in lines
    assert ["cvmfs:/images", "│", "works", *row] in lines
    assert ["sources.parent.ways.http://squid:3128", "│", "left", "out", "for", "now"] in lines
    assert ["tiers.cvmfs:/images.path", "│", "/images"] in lines


def test_what_was_served_and_from_where(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables answer the first questions: what the store saves, what each upstream gave and still gives, which processes run."""
    limit = {"limit": 100, "remaining": 76, "window": 21600}
    figures = {
        "served": [
            {"name": "store", "bytes": 3 << 20, "share": 0.75},
            {"name": "upstream", "bytes": 1 << 20, "share": 0.25},
        ],
        "upstreams": {
            "docker.io": {"bytes": 1 << 20, "rangeless": False, "rate_limit": limit},
            "gitlab.example": {"bytes": 0, "rangeless": True, "rate_limit": None},
        },
        "processes": [{"name": "fetcher", "pid": 4321, "restarts": 0, "since": 61.4}],
    }
    fake.put("/stats", Canned(json.dumps(figures).encode()))
    assert main.run(["stats", "--server", server]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["store", "│", "3.0", "MiB", "│", "75.0%"] in lines
    assert ["docker.io", "│", "1.0", "MiB", "│", "no", "│", "76", "of", "100"] in lines
    assert ["gitlab.example", "│", "0", "B", "│", "yes", "│"] in lines
    assert ["fetcher", "│", "4321", "│", "0", "│", "61", "s"] in lines


def test_jobs_are_left_to_their_own_verb(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Conversions, of which there may be hundreds, are summed up; `lazy status` lists them."""
    lazy = {"jobs": [{"id": "estargz-1", "state": "running"}], "states": {"running": 1}, "layers": 7}
    fake.put("/stats", Canned(json.dumps({"lazy": lazy}).encode()))
    assert main.run(["stats", "--server", server]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["lazy.layers", "│", "7"] in lines
    assert ["lazy.states.running", "│", "1"] in lines
    assert not any("estargz-1" in line for line in lines)


def test_rows() -> None:
    """Every kind of figure has a text."""
    found = dict(rows({**FIGURES, "errors": [], "hosts": ["a", "b"], "seconds": 0.12345, "share": 2 / 3}))
    assert found == {
        "version": "0.1.0",
        "store.bytes": "3.0 GiB",
        "store.limit": "none",
        "store.chunks": "3,072",
        "store.writable": "yes",
        "upstreams.docker.io.rangeless": "no",
        "errors": "none",
        "hosts": "a, b",
        "seconds": "123 ms",
        "share": "66.7%",
    }


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"[" * 100_000])
def test_another_program_at_that_address_is_told(
    body: bytes, fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no figures of ours is a failure in one line."""
    fake.put("/stats", Canned(body))
    assert main.run(["stats", "--server", server]) == 1
    assert "not an instance of this program" in capsys.readouterr().err


def test_a_registry_at_that_address_is_told(
    fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has no figures at all is none of ours either."""
    assert main.run(["stats", "--server", server]) == 1
    assert "not an instance of this program" in capsys.readouterr().err


def test_nobody_there_is_told(unused_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No instance at the configured address is exit code 1 and one line that names the URL."""
    assert main.run(["stats", "--listen", f"127.0.0.1:{unused_tcp_port}"]) == 1
    assert f"no instance answers at http://127.0.0.1:{unused_tcp_port} (Connection refused)" in capsys.readouterr().err
