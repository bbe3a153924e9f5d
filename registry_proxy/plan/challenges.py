"""What a server wants to see before it answers: the WWW-Authenticate header (RFC 9110 §11.6.1).

One header may carry several challenges and one answer several headers, and a comma separates challenges as well as their
parameters: only what follows a word tells which it is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from registry_proxy.errors import UpstreamBroken

_SKIP = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9\-._~+/]+=*)[ \t]*(?=,|\Z)")
_PARAMETER = re.compile(
    r"[ \t,]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*"
    r'(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))'  # servers forget the quotes around URLs, which are no tokens
)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme, in lower case, with its parameters (names in lower case) or its token68."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str | None = None


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of all WWW-Authenticate headers, in order; raises UpstreamBroken if one cannot be read."""
    return [challenge for header in headers for challenge in _challenges(header)]


def _challenges(header: str) -> Iterator[Challenge]:
    at = _end(_SKIP.match(header))
    while at < len(header):
        scheme = _TOKEN.match(header, at)
        if scheme is None:
            raise UpstreamBroken(f"malformed WWW-Authenticate: {header[:160]!r}")
        at = scheme.end()
        parameters: dict[str, str] = {}
        token68 = _TOKEN68.match(header, at)
        if token68:
            at = token68.end()
        while not token68 and (parameter := _PARAMETER.match(header, at)):
            name, quoted, bare = parameter.groups()
            parameters.setdefault(name.lower(), bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
            at = parameter.end()
        yield Challenge(scheme[0].lower(), parameters, token68[1] if token68 else None)
        at = _end(_SKIP.match(header, at))


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
