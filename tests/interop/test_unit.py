"""The systemd unit holds what the documentation says of it, and the program works under it."""

import re
from pathlib import Path

import pytest

from tests.interop.harness.clients import crane_pull
from tests.interop.harness.containerd import missing
from tests.interop.harness.login import Client
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
    assert {"read", "socket", "sendfile", "setpriority", "sched_setscheduler"} <= allowed()


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
    """Without capabilities, with a read-only system and the filter's system calls alone, an image is pulled, cold and from the store, and
    lazy forms of it are made."""
    assert options()["CapabilityBoundingSet"] == [""]
    address, image, own = f"127.0.0.1:{free_port()}", pushed["tiny"], work / "own"
    own.mkdir()
    (own / "proxy.toml").write_text(
        '[lazy]\nsmallest_layer = 0\nplatforms = ["linux/amd64"]\nwait = "120s"\n', encoding="utf-8"
    )
    name = f"{address}/{SOURCE}/{image.repository}"
    with Process(
        "confined", [*confined(own, own / "trace"), *serve(own, address, workers, upstream)], work, homes(own)
    ) as process:
        process.ready_when(lambda: answers(f"http://{address}/v2/"))
        for turn in ("cold", "warm"):
            assert missing(crane_pull(f"{name}:latest", work / turn), image.digests) == "{}"
        for form in ("soci", "esgz"):
            made = Client().get(f"http://{address}/v2/{SOURCE}/{image.repository}/manifests/latest-{form}")
            assert made.status == 200, made.body
    log = process.log.read_text(encoding="utf-8")
    assert "server.ready" in log
    assert not re.search(r'"level":"(error|warning)"', log), log
    assert "Operation not permitted" not in log
    trace = (own / "trace").read_text(encoding="utf-8")
    assert "PROT_READ" in trace
    assert not re.search(r"PROT_WRITE\|PROT_EXEC", trace)  # MemoryDenyWriteExecute


def serve(own: Path, address: str, workers: int, upstream: str) -> list[str | Path]:
    """The program, with everything that it keeps in one directory."""
    python = call("sh", "-c", "command -v python").strip()
    where: list[str | Path] = [
        "--listen",
        address,
        "--store",
        own / "store",
        "--workers",
        str(workers),
        "--config",
        own / "proxy.toml",
    ]
    return [python, "-m", "registry_proxy", "serve", *where, f"--upstream={SOURCE}=http://{upstream}"]


def homes(own: Path) -> dict[str, str]:
    """The environment that a service has: places of its own, and nothing to compile into."""
    places = dict.fromkeys(("TMPDIR", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"), str(own))
    return places | {"PYTHONDONTWRITEBYTECODE": "1"}
