"""Headers written anew say what the original says."""

import tarfile

import msgspec
import pytest

from registry_proxy.lazy.convert.headers import written
from registry_proxy.lazy.convert.tar import TarReader
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import DEFAULT
from registry_proxy.lazy.ztoc.header import Entry
from tests.lazy import hard


def entries(plain: bytes) -> list[Entry]:
    reader = TarReader(iter([plain]), DEFAULT)
    found = []
    while item := reader.next():
        found.append(item.entry)
    return found


def essence(entry: Entry) -> tuple[object, ...]:
    """All but where it lies and which of its fields needed records."""
    own = {b"path", b"linkpath", b"uid", b"gid", b"size", b"mtime", b"uname", b"gname", b"hdrcharset"}
    records = [record for record in entry.records if record[0] not in own]
    return entry.name, entry.kind, entry.size, entry.link, entry.mode, entry.uid, entry.gid, entry.owner, entry.group, \
        entry.modified, entry.major, entry.minor, records  # fmt: skip


@pytest.mark.parametrize("entry", [e for name in ("many kinds", "gnu") for e in entries(hard.TARS[name]) if e.kind != "dir"],
                         ids=lambda entry: f"{entry.kind} {entry.name[:20]!r}")  # fmt: skip
def test_an_entry_stays_what_it_is(entry: Entry) -> None:
    """Read back, every field is there: long and odd names, owners, times, devices and extended attributes."""
    [again] = entries(written(entry) + bytes(-(-entry.size // 512) * 512 + 1024))
    assert essence(again) == essence(entry)


@pytest.mark.parametrize("field", [{"kind": "char", "major": 1 << 40}, {"records": ((b"SCHILY.xattr.\xff", b"x"),)}])
def test_what_no_header_can_say(field: dict[str, object]) -> None:
    """Hostile numbers and keys are refused."""
    [entry] = entries(tarfile.TarInfo("f").tobuf() + bytes(1024))
    with pytest.raises(LayerRefused, match="anew"):
        written(msgspec.structs.replace(entry, **field))
    assert written(entry).startswith(b"f\0")
