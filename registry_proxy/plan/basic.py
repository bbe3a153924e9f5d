"""A user's name and password in an Authorization header (RFC 7617)."""

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass, field

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2})[ \t]*\Z", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Basic:
    """What somebody claims to be called, and says to prove it."""

    user: str
    password: str = field(repr=False)


def parse_basic(header: str) -> Basic | None:
    """The name and the password, or None if the header has none: another scheme, or nothing that anybody could have meant."""
    match = _BASIC.match(header)
    if match is None:
        return None
    try:
        user, colon, password = b64decode(match[1], validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Basic(user, password) if colon and not _CONTROL.search(user + password) else None
