"""What a configuration that is read again changes: at once, or at the next start only. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from registry_proxy.config.values import Config, Policy, Server, Upstream
from registry_proxy.oci.names import SourceHost


@dataclass(frozen=True, slots=True)
class Changes:
    """``config``: the running one with what can change at once; ``now``, ``later``: the keys that do and that need a restart."""

    config: Config
    now: tuple[str, ...]
    later: tuple[str, ...]


def changes(running: Config, read: Config) -> Changes:
    """What becomes of the running configuration when this one has been read: log.level, the users, the limits of [server], most of
    [policy] and of the upstreams change at once."""
    server = _live_server(running.server, read.server)
    log = msgspec.structs.replace(running.log, level=read.log.level)
    policy = _live_policy(running.policy, read.policy)
    upstreams = _live_upstreams(running.upstreams, read.upstreams)
    config = msgspec.structs.replace(
        running, server=server, users=read.users, htpasswd=read.htpasswd, log=log, policy=policy, upstreams=upstreams
    )
    return Changes(config, tuple(_differences(running, config)), tuple(_differences(config, read)))


def _live_server(running: Server, read: Server) -> Server:
    """All but where it listens and in how many processes; certificates, if it has and keeps TLS."""
    tls = read.tls if running.tls is not None and read.tls is not None else running.tls
    return msgspec.structs.replace(read, listen=running.listen, workers=running.workers, tls=tls)


def _live_policy(running: Policy, read: Policy) -> Policy:
    """All but what others were built with: the sources and their order, how long is waited for them, the budget of running streams."""
    return msgspec.structs.replace(
        read, sources=running.sources, patience=running.patience, orphan_budget=running.orphan_budget
    )


def _live_upstreams(
    running: Mapping[SourceHost, Upstream], read: Mapping[SourceHost, Upstream]
) -> dict[SourceHost, Upstream]:
    """Those that are read; of one that has to wait for a restart everything as it was, so that nothing of two configurations is mixed."""
    waiting = [host for host, upstream in running.items() if upstream.listen and host not in read]
    live = {host: _live_upstream(running.get(host), upstream) for host, upstream in read.items()}
    return live | {host: running[host] for host in waiting}


def _live_upstream(running: Upstream | None, read: Upstream) -> Upstream:
    """What is asked of it as somebody, and who else may have the answers, changes with a restart, but an open upstream can be guarded at once:
    answers on their way would be taken for what anybody may have. So do listeners."""
    if running is None:
        return msgspec.structs.replace(read, listen=())
    opens = read.access != running.access and running.access != "open"
    if opens or any(getattr(read, key) != getattr(running, key) for key in ("account", "repositories", "listen")):
        return running
    return read


def _differences(one: Config, other: Config) -> list[str]:
    """The keys whose values differ: to the key within a section, and within the table of an upstream that both have."""
    found: list[str] = []
    for section in one.__struct_fields__:
        before, after = getattr(one, section), getattr(other, section)
        if section == "upstreams":
            found += _upstreams(before, after)
        elif isinstance(before, msgspec.Struct):
            found += (f"{section}.{key}" for key in _keys(before, after))
        elif before != after:
            found.append(section)
    return found


def _upstreams(before: Mapping[SourceHost, Upstream], after: Mapping[SourceHost, Upstream]) -> Iterator[str]:
    for host in dict.fromkeys((*before, *after)):
        one, other = before.get(host), after.get(host)
        if one is None or other is None:
            yield f'upstream."{host}"'
        else:
            yield from (f'upstream."{host}".{key}' for key in _keys(one, other))


def _keys(one: msgspec.Struct, other: msgspec.Struct) -> list[str]:
    return [key for key in one.__struct_fields__ if getattr(one, key) != getattr(other, key)]
