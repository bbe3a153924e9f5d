"""What a configuration that is read again changes: at once, or at the next start only. Pure."""

from dataclasses import dataclass

import msgspec

from registry_proxy.config.values import Config, Policy, Server, Upstream


@dataclass(frozen=True, slots=True)
class Changes:
    """``config``: the running one with what can change at once; ``now``, ``later``: the keys that do and that need a restart."""

    config: Config
    now: tuple[str, ...]
    later: tuple[str, ...]


def changes(running: Config, read: Config) -> Changes:
    """What becomes of the running configuration when this one has been read: log.level, the users, the limits of [server] and most
    of [policy] change at once."""
    server = _live_server(running.server, read.server)
    log = msgspec.structs.replace(running.log, level=read.log.level)
    policy = _live_policy(running.policy, read.policy)
    config = msgspec.structs.replace(
        running, server=server, users=read.users, htpasswd=read.htpasswd, log=log, policy=policy
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


def _differences(one: Config, other: Config) -> list[str]:
    """The keys whose values differ: to the key within a section, and to the table of an upstream."""
    found: list[str] = []
    for section in one.__struct_fields__:
        before, after = getattr(one, section), getattr(other, section)
        if section == "upstreams":
            found += _upstreams(before, after)
        elif isinstance(before, msgspec.Struct):
            keys = before.__struct_fields__
            found += [f"{section}.{key}" for key in keys if getattr(before, key) != getattr(after, key)]
        elif before != after:
            found.append(section)
    return found


def _upstreams(before: dict[str, Upstream], after: dict[str, Upstream]) -> list[str]:
    hosts = dict.fromkeys((*before, *after))
    return [f'upstream."{host}"' for host in hosts if before.get(host) != after.get(host)]
