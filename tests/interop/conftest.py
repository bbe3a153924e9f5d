"""Fixtures of the interop tests: registries filled with images, nginx in front of them, short-lived directories.

These tests drive real programs as root. Nothing here may skip: what is missing fails, with the command that installs it.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.interop.harness.front import Front, front
from tests.interop.harness.process import LOGS, complaints, mounts_below, tail, unmount_below
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import Image, fill, registry
from tests.setup.crates import cargo

HERE = Path(__file__).parent
TIMEOUT = 300  # seconds per test: real programs, images of 60 MB, two cores
FIGURES: list[str] = []  # measured by the tests, printed at the end of the run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests here get more time than others."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip counts as a failure, and a failure shows the logs of the programs that ran meanwhile."""
    report = refuse_skip((yield))
    if report.failed and item.path.is_relative_to(HERE):
        for log in LOGS:
            if log.exists() and log.stat().st_mtime >= call.start - 60:
                report.sections.append((f"errors in the log of {log.stem}", complaints(log)))
                report.sections.append((f"end of the log of {log.stem}, {log}", tail(log)))
    return report


def refuse_skip(report: pytest.TestReport) -> pytest.TestReport:
    """The report, failed if it says skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"interop tests must not skip: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what the tests measured."""
    if FIGURES:
        terminalreporter.section("measured")
        for line in FIGURES:
            terminalreporter.write_line(line)


collect_ignore = [] if cargo() else ["test_fuse_client.py"]
"""Without Rust on the machine there is no such client; test_mounted has the same over bindfs."""


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    return FIGURES.append


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose name is short enough for Unix sockets in it; removed unless something is mounted there."""
    directory = Path(tempfile.mkdtemp(prefix="rp-"))
    try:
        yield directory
    finally:
        unmount_below(directory)
        assert not mounts_below(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory of the test's own."""
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A directory for what all tests use."""
    assert os.geteuid() == 0, "the interop tests mount file systems and start containers: run them as root"
    with short_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def storage(shared: Path) -> Path:
    """What docker-registry keeps: filled by `images_pushed`, read by all registries of the tests."""
    return shared / "registry"


@pytest.fixture(scope="session")
def pushed(storage: Path, shared: Path) -> dict[str, Image]:
    """The images of the tests by name, pushed."""
    return fill(storage, shared)


@pytest.fixture(scope="session")
def upstream(storage: Path, shared: Path, pushed: dict[str, Image]) -> Iterator[str]:
    """The host:port of a docker-registry that holds every image and answers ranges."""
    assert pushed
    with registry(storage, shared) as address:
        yield address


@pytest.fixture(params=["ranged", "rangeless"])
def site(request: pytest.FixtureRequest, upstream: str, work: Path) -> Iterator[Front]:
    """That registry behind an nginx that counts, once with byte ranges and once without."""
    with front(upstream, work, ranges=request.param == "ranged") as running:
        yield running


@pytest.fixture
def gitlab(upstream: str, work: Path) -> Iterator[Front]:
    """That registry behind an nginx that strips Range, as in front of many a GitLab."""
    with front(upstream, work, ranges=False) as running:
        yield running


@pytest.fixture
def proxy(site: Front, work: Path) -> Iterator[Proxy]:
    """The proxy in front of `site`, cold."""
    with registry_proxy(work / "proxy", {SOURCE: site.url, "docker.io": site.url}) as running:
        yield running
