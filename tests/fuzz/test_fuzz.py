"""Every input that is kept, every mutation of one that hypothesis thinks of, and the corpus itself."""

import gc
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus, targets

LARGEST_CORPUS = 400_000  # bytes in all
TIMES = 20  # that the corpus is replayed for a look at memory
SLACK = 3_000  # blocks of Python's that bounded caches may still take


@pytest.mark.parametrize("target", targets.names())
def test_what_is_kept_breaks_nothing(target: str) -> None:
    """Inputs that once broke something, or that reach much, are answered as documented and in time."""
    run, inputs = targets.load(target), corpus.read(target)
    assert inputs
    for data in inputs:
        started = time.process_time()
        run(data)
        assert time.process_time() - started < targets.SECONDS, data


@pytest.mark.parametrize("target", targets.names())
def test_memory_does_not_grow(target: str) -> None:
    """Replaying the corpus again and again leaves nothing behind."""
    run, inputs = targets.load(target), corpus.read(target)[:100]
    for data in inputs:
        run(data)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(TIMES):
        for data in inputs:
            run(data)
    gc.collect()
    assert sys.getallocatedblocks() - before < SLACK


@pytest.mark.parametrize("target", targets.names())
def test_anything_is_answered(target: str) -> None:
    """Random bytes, and kept inputs with a piece cut out, doubled or replaced, break nothing."""
    run, inputs = targets.load(target), corpus.read(target)

    @st.composite
    def mutated(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(inputs))
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        piece = draw(st.one_of(st.binary(max_size=40), st.just(data[start:stop] * 2)))
        return data[:start] + piece + data[stop:]

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.one_of(st.binary(max_size=300), mutated()))
    def holds(data: bytes) -> None:
        run(data)

    holds()


@pytest.mark.parametrize("data", [b"", b"=", b"\n\\x00\xff=", b"GET / HTTP/1.1\r\n", bytes(1000)])
def test_a_line_is_its_input(data: bytes) -> None:
    """What is kept comes back as it was, and fits on a line of ASCII."""
    line = corpus.encode(data)
    assert corpus.decode(line) == data
    assert line.isascii()
    assert len(line.splitlines()) <= 1


def test_the_corpus_is_small() -> None:
    """It may lie in the tree because it is small, and each of its files belongs to a target."""
    files = list(corpus.HERE.iterdir())
    assert {file.stem for file in files} == set(targets.names())
    assert sum(file.stat().st_size for file in files) < LARGEST_CORPUS


def test_the_command_says_what_it_takes() -> None:
    """`python -m tests.fuzz --help` names the targets."""
    command = [sys.executable, "-m", "tests.fuzz", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert all(target in said.replace("\n", "") or target in said for target in targets.names())
