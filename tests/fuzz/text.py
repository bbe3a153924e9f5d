"""Bytes cut into the texts that a target needs."""


def fields(data: bytes, count: int) -> list[str]:
    """That many texts, one a line, as header values reach us (UTF-8, other bytes as surrogates); what is missing is empty."""
    lines = data.decode("utf-8", "surrogateescape").split("\n", count - 1)
    return lines + [""] * (count - len(lines))


def number(text: str, default: int) -> int:
    """A number of at most 18 digits, or the default."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else default
