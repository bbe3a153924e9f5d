"""What a conversion is asked for, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from registry_proxy.lazy.estargz.footer import TOC_DIGEST
from registry_proxy.lazy.ztoc.bounds import DEFAULT, Bounds
from registry_proxy.oci.digest import Digest

CHUNK_SIZE: Final = 4 << 20
"""Bytes of a file in one gzip member: the reference library's default."""

UNCOMPRESSED_SIZE: Final = "io.containers.estargz.uncompressed-size"
"""Annotation of a layer: bytes of its tar, the TOC's entry included (containers/storage asks for it)."""


@dataclass(frozen=True, slots=True)
class Options:
    """``chunk_size``: bytes of a file per gzip member at most; ``min_chunk``: a member holds files up to this many bytes before the
    next one begins (0: a member for each file; readers older than stargz-snapshotter 0.13 know only that, and the Go library's own
    verifier too); ``level``: 0 to 3 by isal if it is installed, else by zlib, 4 to 9 by zlib; ``prioritized``: paths of a profile,
    first used first, those that the layer lacks are ignored, an empty one means none; ``threads``: that compress; ``bounds``: how
    much a layer may ask for. Raises ValueError for numbers that make no sense.
    """

    chunk_size: int = CHUNK_SIZE
    min_chunk: int = 0
    level: int = 1
    prioritized: tuple[str, ...] = ()
    threads: int = 2
    bounds: Bounds = field(default=DEFAULT)

    def __post_init__(self) -> None:
        if self.chunk_size < 1 or self.min_chunk < 0 or self.threads < 1 or not 0 <= self.level <= 9:
            raise ValueError(f"no such conversion: {self}")


@dataclass(frozen=True, slots=True)
class ConvertedLayer:
    """``digest``, ``size``: of the copy as it is stored; ``diff_id``, ``uncompressed_size``: of its tar, the TOC's entry included;
    ``toc_digest``: of the TOC's JSON; ``files``: entries of the layer."""

    digest: Digest
    size: int
    diff_id: Digest
    toc_digest: Digest
    uncompressed_size: int
    files: int

    @property
    def annotations(self) -> Mapping[str, str]:
        """What the layer's descriptor must say: without the TOC's digest no snapshotter mounts it."""
        return {TOC_DIGEST: str(self.toc_digest), UNCOMPRESSED_SIZE: str(self.uncompressed_size)}
