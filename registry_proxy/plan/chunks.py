"""Spans, the chunk grid of a blob, and the slices of chunks that answer a span."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

MIB = 1 << 20


class Span(msgspec.Struct, frozen=True, order=True, gc=False):
    """A half-open interval of bytes, ``[start, stop)``; never negative, never reversed."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a span: [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes ``[start, stop)`` of the chunk ``index``, counted from the chunk's own first byte."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent chunks ``[first, stop)``, fetched by one request."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True, slots=True)
class Grid:
    """How a blob of ``size`` bytes is cut into chunks of ``chunk`` bytes; the last chunk may be short."""

    size: int
    chunk: int = MIB

    @property
    def count(self) -> int:
        """Number of chunks; none for an empty blob."""
        return -(-self.size // self.chunk)

    def span_of(self, index: int) -> Span:
        """The bytes of one chunk, counted from the start of the blob."""
        start = index * self.chunk
        return Span(start, min(start + self.chunk, self.size))

    def length_of(self, index: int) -> int:
        """Bytes in one chunk."""
        return min(self.chunk, self.size - index * self.chunk)

    def span_of_run(self, run: Run) -> Span:
        """The bytes of a run, counted from the start of the blob."""
        return Span(min(run.first * self.chunk, self.size), min(run.stop * self.chunk, self.size))

    def touched(self, span: Span) -> range:
        """The indexes of the chunks that a span within the blob touches."""
        if span.start == span.stop:
            return range(0)
        return range(span.start // self.chunk, -(-span.stop // self.chunk))

    def slices(self, span: Span) -> Iterator[Slice]:
        """The slices that, put together in order, are the bytes of a span within the blob."""
        for index in self.touched(span):
            base = index * self.chunk
            yield Slice(index, max(span.start - base, 0), min(span.stop - base, self.chunk))
