"""The process that atheris runs in, which does not come back from it: `python -m tests.fuzz.process TARGET LIBFUZZER-ARGUMENTS`.

Every `EVERY` inputs it says on standard error how many blocks of memory Python holds, so that growth is seen.
"""

import gc
import logging
import sys

import atheris
import structlog

from tests.fuzz import targets

EVERY = 20_000


def main() -> None:
    """Load the target with its code instrumented, and fuzz it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["registry_proxy"]):
        run = targets.load(sys.argv[1])
    count = 0

    def one(data: bytes) -> None:
        nonlocal count
        run(data)
        count += 1
        if count % EVERY == 0:
            gc.collect()
            print(targets.BLOCKS, count, sys.getallocatedblocks(), file=sys.stderr, flush=True)

    atheris.Setup(sys.argv[1:], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
