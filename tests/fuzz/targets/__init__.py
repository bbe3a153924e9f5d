"""One module per target, each with `run(data)`: it returns whatever the bytes are, and raises only if something is wrong.

Errors that a module documents are no failure; an assertion is what must hold of every input. `SECONDS` is how long one input
may take; `BLOCKS` is what a line about memory begins with.
"""

import importlib
import pkgutil
from collections.abc import Callable

SECONDS = 5.0
BLOCKS = "python-blocks"


def names() -> list[str]:
    """The targets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Callable[[bytes], None]:
    """A target."""
    run: Callable[[bytes], None] = importlib.import_module(f"{__name__}.{name}").run
    return run
