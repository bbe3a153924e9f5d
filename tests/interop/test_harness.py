"""The harness itself keeps its promises."""

import ast
from pathlib import Path

import pytest

from tests.interop.conftest import refuse_skip
from tests.interop.harness.process import mounts_below
from tests.setup.packages import NEEDED, installed
from tests.setup.programs import FOREIGN, OWN, program

HERE = Path(__file__).parent


def test_a_skip_is_a_failure() -> None:
    """A skipped interop test is reported as failed."""
    report = pytest.TestReport("a::b", ("a", 1, "b"), {}, "skipped", ("a", 1, "no such program"), "call")
    assert refuse_skip(report).failed
    assert "no such program" in str(report.longrepr)


def test_no_test_here_knows_how_to_skip() -> None:
    """No module of the interop tests mentions skipping, expected failures or optional imports."""
    forbidden = {"skip", "skipif", "xfail", "importorskip"}
    for file in HERE.rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
        assert not names & forbidden, file


def test_everything_is_installed() -> None:
    """The Debian packages and the built programs are there (`python -m tests.setup` sees to it)."""
    assert [name for name in NEEDED if not installed(name)] == []
    names = [package.rsplit("/", 1)[1] for _, packages in FOREIGN.values() for package in packages]
    assert all(program(name).is_file() for name in [*names, *OWN])


def test_mounts_are_found_below_a_directory_only() -> None:
    """A directory's mounts include its own, not those of a namesake beside it."""
    assert ("/proc", "proc") in mounts_below(Path("/proc"))
    assert mounts_below(Path("/pro")) == []
