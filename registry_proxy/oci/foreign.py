"""What comes from somewhere else: JSON is read as what it should be, or one error says why not; text can be written out again."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def printable(text: str) -> str:
    """The text in characters that can be sent: bytes that were none (surrogates, as in a header's value) are spelt out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class Unreadable(ValueError):
    """Not JSON, not of the shape asked for, or nested deeper than anything honest is."""


def decode(body: bytes, kind: type[T]) -> T:
    """The value of this JSON; raises Unreadable."""
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from error
