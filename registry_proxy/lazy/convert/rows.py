"""The rows of a TOC (stargz-snapshotter docs/estargz.md, "TOC"), written as the reference library writes them."""

import hashlib
from typing import Final

import msgspec

from registry_proxy.lazy.ztoc.header import Entry

_XATTR: Final = b"SCHILY.xattr."
_EMPTY: Final = f"sha256:{hashlib.sha256().hexdigest()}"


class Row(
    msgspec.Struct,
    omit_defaults=True,
    gc=False,
    rename={
        "link_name": "linkName",
        "user_name": "userName",
        "group_name": "groupName",
        "inner_offset": "innerOffset",
        "dev_major": "devMajor",
        "dev_minor": "devMinor",
        "chunk_offset": "chunkOffset",
        "chunk_size": "chunkSize",
        "chunk_digest": "chunkDigest",
    },
):
    """An entry, or a later chunk of the regular file before it; the fields of chunks are filled in as the chunks are made."""

    name: str
    type: str
    size: int = 0
    modtime: str = ""
    link_name: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user_name: str = ""
    group_name: str = ""
    offset: int = 0
    inner_offset: int = 0
    dev_major: int = 0
    dev_minor: int = 0
    xattrs: dict[str, bytes] = {}
    digest: str = ""
    chunk_offset: int = 0
    chunk_size: int = 0
    chunk_digest: str = ""


class Rows:
    """Makes rows of entries; the name of a user or group is written where it differs from the last one of that number."""

    def __init__(self) -> None:
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def of(self, entry: Entry) -> Row:
        """The row of an entry, without what only its chunks tell."""
        row = Row(
            _text(entry.name),
            entry.kind,
            entry.size,
            entry.modified.decode(),
            "",
            entry.mode,
            entry.uid,
            entry.gid,
        )
        if entry.link and entry.kind in {"hardlink", "symlink"}:
            row.link_name = _text(entry.link)
        if entry.owner and self._users.get(entry.uid) != entry.owner:
            self._users[entry.uid] = entry.owner
            row.user_name = _text(entry.owner)
        if entry.group and self._groups.get(entry.gid) != entry.group:
            self._groups[entry.gid] = entry.group
            row.group_name = _text(entry.group)
        if entry.kind in {"char", "block"}:
            row.dev_major, row.dev_minor = entry.major, entry.minor
        if entry.records:
            found = [(key[len(_XATTR) :], value) for key, value in entry.records if key.startswith(_XATTR)]
            row.xattrs = {_text(key): value for key, value in found}
        if not entry.size and entry.kind == "reg":
            row.digest = _EMPTY
        return row


def _text(data: bytes) -> str:
    """JSON has no other bytes than UTF-8's: the reference library replaces them too."""
    return data.decode("utf-8", "replace")
