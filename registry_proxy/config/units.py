"""Sizes and durations as people write them: ``500GiB``, ``1MiB``, ``60s``, ``5m``."""

import math
import re
from typing import Final

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z%]*)\s*\Z")
_SIZES: Final = {
    "": 1,
    "b": 1,
    **{prefix + "ib": 1 << (10 * power) for power, prefix in enumerate("kmgtp", 1)},
    **{prefix + "b": 1000**power for power, prefix in enumerate("kmgtp", 1)},
}
_DURATIONS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Size(int):
    """Bytes."""


class Seconds(float):
    """Seconds."""


def parse_size(value: object) -> Size:
    """Bytes from a number or a text such as ``500GiB`` or ``20GB``; raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Size(value)
    number, unit = _split(value, 'a size such as "500GiB"')
    if unit.lower() not in _SIZES:
        raise ValueError(f'{value!r} is not a size such as "500GiB"')
    return Size(number * _SIZES[unit.lower()])


def parse_share(value: object) -> float | None:
    """The fraction that a text such as ``20%`` stands for, or None if it is no percentage; raises ValueError beyond 0-100."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return None
    number, unit = _split(value, 'a share such as "20%"')
    if unit != "%" or not 0 < number <= 100:
        raise ValueError(f"{value!r} is not between 0% and 100%")
    return number / 100


def parse_duration(value: object) -> Seconds:
    """Seconds from a number or a text such as ``60s``, ``5m`` or ``1d``; raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Seconds(value)
    number, unit = _split(value, 'a duration such as "60s"')
    if unit not in _DURATIONS:
        raise ValueError(f'{value!r} is not a duration such as "60s"')
    return Seconds(number * _DURATIONS[unit])


def size_text(count: float) -> str:
    """A number of bytes for a person: ``387.4 MiB``."""
    if abs(count) < 1024:
        return f"{int(count)} B"
    for prefix in "KMGT":
        count /= 1024
        if abs(count) < 1024:
            return f"{count:.1f} {prefix}iB"
    return f"{count / 1024:.1f} PiB"


def _split(value: object, wanted: str) -> tuple[float, str]:
    match = _NUMBER.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not {wanted}")
    return float(match[1]), match[2]
