"""Results are kept: as JSON in `loadtest/results/`, with the machine that they come from."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"


def say(text: str) -> None:
    """Tell the progress, apart from the results."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def keep(name: str, conditions: Mapping[str, object], runs: Sequence[Mapping[str, object]]) -> Path:
    """Write runs down, with what they ran on; the file."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    machine = {"processors": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    document = {"measured": now.isoformat(), "machine": machine, **conditions, "runs": list(runs)}
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    say(f"kept in {file}")
    return file
