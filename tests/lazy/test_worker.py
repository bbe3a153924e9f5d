"""The worker process, seen from outside."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from registry_proxy.lazy.terms import Kind
from registry_proxy.lazy.work.process import Order, Report
from registry_proxy.oci.digest import Digest
from tests.lazy.layers import tar

GROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")


def test_everybody_else_comes_first(tmp_path: Path) -> None:
    """It runs when nobody else wants to, it is as nice as can be, and so is its session where the kernel shares processors among sessions."""
    layer = gzip.compress(tar({"a": b"contents"}))
    order = Order(Kind.SOCI, str(Digest.of(layer)), len(layer), "", 4 << 20, str(tmp_path / "out"))
    command = [sys.executable, "-m", "registry_proxy.lazy.work.worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd=Path(__file__).parents[2]
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(msgspec.json.encode(order) + b"\n" + layer)
        worker.stdin.flush()  # it reports what it has taken, and then waits for the end of its input
        assert msgspec.json.decode(worker.stdout.readline(), type=Report).taken is not None
        assert os.sched_getscheduler(worker.pid) == os.SCHED_IDLE
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == 19
        if GROUPS.exists() and GROUPS.read_text(encoding="ascii").strip() == "1":
            assert Path(f"/proc/{worker.pid}/autogroup").read_text(encoding="ascii").split()[-1] == "19"
        worker.kill()
