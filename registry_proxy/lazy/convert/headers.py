"""Headers written anew, where an entry is not what its blocks in the layer say: POSIX, with PAX records for what does not fit."""

import tarfile
from datetime import datetime
from typing import Final

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.header import Entry

_TYPES: Final = {
    "reg": tarfile.REGTYPE,
    "hardlink": tarfile.LNKTYPE,
    "symlink": tarfile.SYMTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}
_IN_FIELDS: Final = (b"path", b"linkpath", b"size", b"hdrcharset")


def written(entry: Entry) -> bytes:
    """The blocks of an entry that is no directory: all that the entry says, its other PAX records included.

    Raises LayerRefused for numbers that no field can hold, and for records whose key is no text.
    """
    info = tarfile.TarInfo(_text(entry.name))
    info.type, info.linkname, info.size = _TYPES[entry.kind], _text(entry.link), entry.size
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.devmajor, info.devminor = entry.major, entry.minor
    info.uname, info.gname = _text(entry.owner), _text(entry.group)
    info.mtime = int(datetime.fromisoformat(entry.modified.decode()).timestamp()) if entry.modified else 0
    info.pax_headers = {_text(key): _text(value) for key, value in entry.records if key not in _IN_FIELDS}
    try:
        return _blocks(info)
    except ValueError as error:
        raise LayerRefused(f"the header of {entry.name[:200]!r} cannot be written anew: {error}") from error


def plain_file(name: str, size: int) -> bytes:
    """The blocks of a file of ours."""
    info = tarfile.TarInfo(name)
    info.size = size
    return _blocks(info)


def _blocks(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
