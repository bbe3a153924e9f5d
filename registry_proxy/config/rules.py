"""What a configuration must obey beyond its types. Each rule yields ``(key, problem)``; no rule looks at the disk or repeats a secret."""

import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from registry_proxy.config.address import Address
from registry_proxy.config.readers import REPOSITORY_PATTERN, access_problems, pattern_problems
from registry_proxy.config.units import size_text
from registry_proxy.config.values import (
    Account,
    Config,
    Cvmfs,
    CvmfsHttp,
    Forwarding,
    Lazy,
    LazyRule,
    Parent,
    Policy,
    Server,
    Store,
    Timeouts,
    Upstream,
)
from registry_proxy.errors import BadRequest, UpstreamBroken
from registry_proxy.plan import forward_proxies
from registry_proxy.plan.chunks import MIB
from registry_proxy.plan.origins import Origin

Problem = tuple[str, str]

MOST_WORKERS = 64

_CVMFS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}\Z")
_IMAGE_PATTERN = re.compile(r"[a-zA-Z0-9._/*?\[\]!:-]+\Z")
_SUFFIX = re.compile(r"[a-zA-Z0-9._-]{1,32}\Z")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9]+(?:/[a-z0-9]+)?\Z")
_HOST_PATTERN = re.compile(r"[a-zA-Z0-9.*?\[\]!:-]+\Z")


def problems(config: Config) -> Iterator[Problem]:
    """Everything wrong with a configuration, section by section."""
    yield from _below("server", _server(config.server))
    yield from _below("store", _store(config.store))
    yield from _below("policy", _policy(config.policy))
    yield from _below("parent", _parent(config.parent))
    yield from _below("forward_proxies", _forwarding(config.forward_proxies))
    for host, upstream in config.upstreams.items():
        yield from _below(f'upstream."{host}"', _upstream(upstream, config))
    for number, mount in enumerate(config.cvmfs):
        yield from _below(f"cvmfs[{number}]", _cvmfs(mount))
    for number, repository in enumerate(config.cvmfs_http):
        yield from _below(f"cvmfs_http[{number}]", _cvmfs_http(repository))
    yield from _below("lazy", _lazy(config.lazy))
    yield from _listeners(config)
    if not config.upstreams:
        yield "upstream", "no upstream is configured and default_upstreams is off"


def check_registry_url(url: str) -> str:
    """A registry's base URL without a trailing slash; raises ValueError, which repeats nothing of the URL but its scheme."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL carries no user name or password: use the account table")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("a URL of a registry has no query and no fragment")
    if parts.path.rstrip("/").endswith("/v2"):
        raise ValueError("leave out the /v2: it is added")
    try:
        Origin.of(url)
    except UpstreamBroken:
        raise ValueError("the host, the port or a character of it is malformed") from None
    return url.rstrip("/")


def _server(server: Server) -> Iterator[Problem]:
    if not server.listen:
        yield "listen", "at least one address"
    yield from _addresses(server.listen)
    yield from _positive(
        server, "header_timeout", "idle_timeout", "max_ranges", "connections", "connections_per_client"
    )
    yield from _positive(server, "requests_per_client", "bodies")
    yield from _not_negative(server, "drain", "queue")
    if not 1 <= server.workers <= MOST_WORKERS:
        yield "workers", f"between 1 and {MOST_WORKERS}: one for each core that answers requests"
    if not 4 << 10 <= server.max_url < server.max_header <= 1 << 20:
        yield "max_header", "between 4KiB and 1MiB, and more than max_url, which is at least 4KiB"


def _store(store: Store) -> Iterator[Problem]:
    if store.limit is not None and store.limit < 16 * store.chunk_size:
        yield "limit", f"a store holds at least 16 chunks, that is {size_text(16 * store.chunk_size)}"
    if store.chunk_size & (store.chunk_size - 1) or not MIB // 16 <= store.chunk_size <= 16 * MIB:
        yield "chunk_size", "a power of two between 64KiB and 16MiB"
    yield from _positive(store, "open_files")


def _policy(policy: Policy) -> Iterator[Problem]:
    yield from _not_negative(policy, "tag_fresh", "miss_remembered", "read_ahead", "sibling_budget", "orphan_budget")
    yield from _positive(policy, "slow", "patience", "verdict")
    if policy.verdict > 300:
        yield "verdict", "at most 5m: who may not read any longer must soon be out"
    if policy.miss_remembered > 5:
        yield "miss_remembered", "at most 5s: a fresh push must not stay unseen"


def _parent(parent: Parent) -> Iterator[Problem]:
    yield from _registry_urls((f"urls[{index}]", url) for index, url in enumerate(parent.urls))
    yield from _positive(parent, "connections")


def _forwarding(forwarding: Forwarding) -> Iterator[Problem]:
    yield from _groups("groups", forwarding.groups, forwarding.fallback)
    yield from _positive(forwarding, "timeout", "timeout_direct", "reset_after")
    yield from _not_negative(forwarding, "low_speed")


def _groups(key: str, text: str, fallback: str = "") -> Iterator[Problem]:
    try:
        forward_proxies.parse(text, fallback)
    except ValueError as error:
        yield key, str(error)


def _upstream(upstream: Upstream, config: Config) -> Iterator[Problem]:
    yield from _urls(upstream)
    yield from access_problems(upstream, config)
    yield from _addresses(upstream.listen)
    yield from pattern_problems("repositories", upstream.repositories, REPOSITORY_PATTERN)
    yield from pattern_problems("realms", upstream.realms, _HOST_PATTERN)
    yield from pattern_problems("redirect_hosts", upstream.redirect_hosts, _HOST_PATTERN)
    yield from _positive(upstream, "connections")
    yield from _below("timeouts", _timeouts(upstream.timeouts))
    if upstream.tag_fresh is not None:
        yield from _not_negative(upstream, "tag_fresh")
    if upstream.account is not None:
        yield from _below("account", _account(upstream.account))
        yield from _exposure(upstream, config.server)


def _urls(upstream: Upstream) -> Iterator[Problem]:
    if not upstream.urls:
        yield "urls", "at least one URL"
    yield from _registry_urls((f"urls[{index}]", url) for index, url in enumerate(upstream.urls))
    if upstream.forward_proxy is not None:
        yield from _groups("forward_proxy", upstream.forward_proxy)


def _registry_urls(named: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    for key, url in named:
        try:
            check_registry_url(url)
        except ValueError as error:
            yield key, str(error)


def _account(account: Account) -> Iterator[Problem]:
    ways = [name for name in ("password", "password_file", "docker_config") if getattr(account, name)]
    if len(ways) != 1:
        yield "password", "an account has one of password, password_file, docker_config"
    elif not account.username and "docker_config" not in ways:
        yield "username", "missing"


def _exposure(upstream: Upstream, server: Server) -> Iterator[Problem]:
    """What an account can read, everyone who reaches an open upstream can: beyond loopback that must be spelled out."""
    if upstream.repositories or upstream.guarded:
        return
    for address in (*server.listen, *upstream.listen):
        if _is_address(address) and not Address.parse(address).is_loopback:
            yield (
                "repositories",
                f"name the repositories that the account may serve: {address} is open to other machines",
            )
            return


def _cvmfs(settings: Cvmfs) -> Iterator[Problem]:
    yield from _positive(settings, "time_limit")


def _cvmfs_http(settings: CvmfsHttp) -> Iterator[Problem]:
    if not _CVMFS_NAME.match(settings.repository):
        yield "repository", f'{settings.repository!r} is not a repository\'s full name such as "images.example.org"'
    yield from ((key, "at least one") for key in ("servers", "keys") if not getattr(settings, key))
    for key in ("servers", "external"):
        yield from _registry_urls((f"{key}[{index}]", url) for index, url in enumerate(getattr(settings, key)))
    if settings.forward_proxies is not None:
        yield from _groups("forward_proxies", settings.forward_proxies)
    yield from _positive(settings, "patience")


def _lazy(lazy: Lazy) -> Iterator[Problem]:
    for key in ("soci_suffix", "estargz_suffix"):
        if not _SUFFIX.match(getattr(lazy, key)):
            yield key, "one to 32 characters of a tag: letters, digits, '.', '_', '-'"
    if lazy.soci_suffix.endswith(lazy.estargz_suffix) or lazy.estargz_suffix.endswith(lazy.soci_suffix):
        yield "estargz_suffix", "must be told apart from soci_suffix at a tag's end"
    yield from _spans(lazy)
    yield from _positive(lazy, "workers")
    yield from _not_negative(lazy, "wait", "smallest_layer")
    for index, platform in enumerate(lazy.platforms):
        if not _PLATFORM.match(platform):
            yield f"platforms[{index}]", f"{platform!r} is not a platform such as linux/amd64"
    for number, rule in enumerate(lazy.rules):
        yield from _below(f"rules[{number}]", _lazy_rule(rule))


def _lazy_rule(rule: LazyRule) -> Iterator[Problem]:
    if not rule.images:
        yield "images", "at least one"
    yield from pattern_problems("images", rule.images, _IMAGE_PATTERN)
    yield from _spans(rule)
    if rule.smallest_layer is not None:
        yield from _not_negative(rule, "smallest_layer")


def _spans(section: Lazy | LazyRule) -> Iterator[Problem]:
    if section.span_size is not None and not MIB // 4 <= section.span_size <= 64 * MIB:
        yield "span_size", "between 256KiB and 64MiB"


def _timeouts(timeouts: Timeouts) -> Iterator[Problem]:
    yield from _positive(timeouts, "connect", "header", "idle")


def _listeners(config: Config) -> Iterator[Problem]:
    seen = set(config.server.listen)
    for host, upstream in config.upstreams.items():
        for address in upstream.listen:
            if address in seen and not address.endswith(":0"):
                yield f'upstream."{host}".listen', f"{address} is already taken by another listener"
            seen.add(address)


def _addresses(listen: Iterable[str]) -> Iterator[Problem]:
    for index, address in enumerate(listen):
        if not _is_address(address):
            yield f"listen[{index}]", f'{address!r} is not an address such as "127.0.0.1:5000" or ":5000"'


def _is_address(text: str) -> bool:
    try:
        Address.parse(text)
    except (ValueError, BadRequest):
        return False
    return True


def _positive(section: object, *keys: str) -> Iterator[Problem]:
    yield from ((key, "more than 0") for key in keys if not getattr(section, key) > 0)


def _not_negative(section: object, *keys: str) -> Iterator[Problem]:
    yield from ((key, "not less than 0") for key in keys if not getattr(section, key) >= 0)


def _below(prefix: str, found: Iterable[Problem]) -> Iterator[Problem]:
    yield from ((f"{prefix}.{key}", problem) for key, problem in found)
