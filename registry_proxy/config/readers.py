"""Rules about who may read what."""

import re
from collections.abc import Iterable, Iterator, Mapping

from registry_proxy.config.values import Config, Upstream
from registry_proxy.plan.networks import Networks
from registry_proxy.plan.users import EVERY, user_name

REPOSITORY_PATTERN = re.compile(r"[a-z0-9._/*?\[\]!-]+\Z")


def access_problems(upstream: Upstream, config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with an upstream's mode, readers and networks."""
    if upstream.access == "pass-through":
        yield from _pass_through(upstream)
    local = upstream.access == "local"
    if local and not upstream.readers and not upstream.networks:
        yield "access", "local needs readers or networks: without any, nobody may read, or everybody"
    if upstream.readers and not local:
        yield "readers", 'these are the proxy\'s own users: they need access = "local"'
    if local and upstream.readers and not _can_log_in(config):
        yield "readers", "nobody can say who they are: it takes users.htpasswd or server.tls.client_ca"
    yield from _readers(upstream.readers)
    yield from _networks(upstream.networks)


def _pass_through(upstream: Upstream) -> Iterator[tuple[str, str]]:
    """What goes to an upstream is its clients' own passwords and tokens: to one place, and nothing else is said in its name."""
    if len(upstream.urls) > 1:
        yield "urls", "one URL: what clients show to a pass-through upstream goes to no mirror"
    if upstream.forward_proxy and any(url.startswith("http:") for url in upstream.urls):
        yield "forward_proxy", "what clients show to a pass-through upstream goes through none without https"
    if upstream.account is not None:
        yield "account", "a pass-through upstream is shown what its clients come with, and no account"
    if upstream.catalog:
        yield "catalog", "each user of a pass-through upstream has another catalog: it cannot be listed here"


def _can_log_in(config: Config) -> bool:
    tls = config.server.tls
    return config.users.htpasswd is not None or (tls is not None and tls.client_ca is not None)


def pattern_problems(key: str, patterns: Iterable[str], allowed: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with patterns."""
    for index, pattern in enumerate(patterns):
        if not allowed.match(pattern) or pattern.startswith("/"):
            yield f"{key}[{index}]", f"{pattern!r} is not a pattern"


def _readers(readers: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    for name, patterns in readers.items():
        key = f'readers."{name[:80]}"'
        try:
            if name != EVERY:
                user_name(name)
        except ValueError as error:
            yield key, str(error)
        if not patterns:
            yield key, "at least one pattern of repositories: who may read nothing is not named"
        yield from pattern_problems(key, patterns, REPOSITORY_PATTERN)


def _networks(networks: Iterable[str]) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(networks):
        try:
            Networks([text])
        except ValueError as error:
            yield f"networks[{index}]", str(error)
