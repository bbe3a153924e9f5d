"""The systemd unit without systemd: what it allows, and a command that runs under most of it.

`confined` gives a program no capability, no way to a new one, a read-only system but for its own directory, and EPERM for every
system call that the unit's filter leaves out (strace puts it in). What it cannot do without systemd: `RestrictAddressFamilies`, devices.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.interop.harness.process import call

UNIT = Path(__file__).parents[3] / "conf/systemd/registry-proxy.service"
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"'


def options() -> dict[str, list[str]]:
    """The values of every option of the [Service] section, in order."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0]
    for name, value in re.findall(r"^(\w+)=(.*)$", section, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def exposure() -> float:
    """What `systemd-analyze security` says of the unit, from 0 (nothing to reach) to 10."""
    said = call("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert match is not None, said
    return float(match[1])


def allowed() -> set[str]:
    """The system calls that the unit's filter lets through."""
    calls: set[str] = set()
    for line in options()["SystemCallFilter"]:
        named = {name for word in line.removeprefix("~").split() for name in _members(word)}
        calls = calls - named if line.startswith("~") else calls | named
    return calls | set(_members("@default"))


def confined(directory: Path, trace: Path) -> tuple[str | Path, ...]:
    """What to put before a command; only `directory` can be written to. Mappings that the program makes are listed in `trace`.

    Who is started is the program itself, with strace beside it (-D): asked to end, strace would leave it behind.
    """
    refused = ",".join(f"?{name}" for name in sorted(set(_members("@known")) - allowed()))
    return (
        "unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh", directory,
        "setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all",
        "strace", "-D", "-f", "-qq", "-o", trace, "-e", f"trace=mmap,mprotect,{refused}", "-e", "signal=none", "-e", f"inject={refused}:error=EPERM",
    )  # fmt: skip


def _members(word: str) -> Iterator[str]:
    """The system calls of a group, and of the groups in it."""
    if not word.startswith("@"):
        yield word
        return
    for line in call("systemd-analyze", "syscall-filter", "--no-pager", word).splitlines():
        if line.startswith(" ") and not line.strip().startswith("#"):
            yield from _members(line.strip())
