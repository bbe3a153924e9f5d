"""The systemd unit holds what the documentation says of it, and the program works under it."""

import re
from pathlib import Path

import pytest

from tests.interop.harness.clients import crane_pull
from tests.interop.harness.containerd import missing
from tests.interop.harness.process import Failure, Process, answers, call, free_port
from tests.interop.harness.proxy import SOURCE
from tests.interop.harness.registries import Image
from tests.interop.harness.unit import allowed, confined, exposure, options

PAGE = Path(__file__).parents[2] / "docs/security.md"


def test_the_documented_exposure_is_the_measured_one() -> None:
    """`systemd-analyze security` gives the unit the figure that docs/security.md states."""
    stated = re.search(r"exposure level of ([0-9.]+)", PAGE.read_text(encoding="utf-8"))
    assert stated is not None
    assert exposure() == float(stated[1])


def test_what_the_filter_leaves_out() -> None:
    """No system call that mounts, traces, loads modules, reboots, changes the clock or becomes somebody else is let through."""
    dangerous = {
        "mount",
        "umount2",
        "ptrace",
        "init_module",
        "kexec_load",
        "reboot",
        "settimeofday",
        "setuid",
        "chroot",
        "bpf",
        "swapon",
    }
    assert not dangerous & allowed()
    assert {"read", "socket", "sendfile", "setpriority"} <= allowed()


def test_the_cage_is_closed(work: Path) -> None:
    """What the tests confine a program with refuses what the unit refuses: writing elsewhere, other users, changed limits."""
    cage = confined(work, work / "trace")
    call(*cage, "sh", "-c", f"touch {work}/inside")
    for refused in (
        "touch /outside",
        f"chown 1 {work}/inside",
        "mount -t tmpfs none /mnt",
        "chroot / true",
        "taskset -p 1 $$",
    ):
        with pytest.raises(Failure):
            call(*cage, "sh", "-c", refused)
    assert (work / "inside").stat().st_uid == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_it_works_under_the_unit(upstream: str, pushed: dict[str, Image], work: Path, workers: int) -> None:
    """Without capabilities, with a read-only system and the filter's system calls alone, an image is pulled, cold and from the store."""
    assert options()["CapabilityBoundingSet"] == [""]
    address, image, own = f"127.0.0.1:{free_port()}", pushed["tiny"], work / "own"
    own.mkdir()
    command = call("sh", "-c", "command -v python").strip()
    serve: list[str | Path] = [
        "-m",
        "registry_proxy",
        "serve",
        "--listen",
        address,
        "--store",
        own / "store",
        "--workers",
        str(workers),
    ]
    words: list[str | Path] = [*confined(own, own / "trace"), command, *serve, f"--upstream={SOURCE}=http://{upstream}"]
    environment = {
        "TMPDIR": str(own),
        "XDG_RUNTIME_DIR": str(own),
        "RUNTIME_DIRECTORY": str(own),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with Process("confined", words, work, environment) as process:
        process.ready_when(lambda: answers(f"http://{address}/v2/"))
        for turn in ("cold", "warm"):
            copied = crane_pull(f"{address}/{SOURCE}/{image.repository}:latest", work / turn)
            assert missing(copied, image.digests) == "{}"
    log = process.log.read_text(encoding="utf-8")
    assert "server.ready" in log
    assert not re.search(r'"level":"(error|warning)"', log), log
    assert "Operation not permitted" not in log
    mappings = (own / "trace").read_text(encoding="utf-8")
    assert "PROT_READ" in mappings
    assert not re.search(r"PROT_\w+\|PROT_WRITE\|PROT_EXEC|PROT_WRITE\|PROT_EXEC", mappings)  # MemoryDenyWriteExecute
