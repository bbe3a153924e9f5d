"""What a valid configuration should still be warned about."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from registry_proxy.cli.findings import StoreFound
from registry_proxy.config import Account, Config, Upstream
from registry_proxy.config.address import Address
from registry_proxy.config.units import size_text
from registry_proxy.oci.names import SourceHost
from registry_proxy.tiers.directory import file_system, is_network, nearest


def look_at_store(config: Config, mountinfo: str) -> StoreFound:
    """What can be said about the store without opening it. ``mountinfo``: proc(5), /proc/pid/mountinfo."""
    path = config.store.path
    there = nearest(path)
    kind = file_system(mountinfo, str(there.resolve()))
    free = shutil.disk_usage(there).free
    error = None
    if not there.is_dir():
        error = f"{there} is not a directory"
    elif is_network(kind):
        error = f"on a network file system ({kind}): give it a directory on a local disk"
    elif not os.access(there, os.W_OK | os.X_OK):
        error = f"{there} cannot be written by this user"
    return StoreFound(str(path), there == path, kind, free, config.store.limit or free // 5, error)


def warnings(config: Config, store: StoreFound) -> Iterator[str]:
    """One line per thing that works but may not be meant."""
    exposed = [address for address in config.server.listen if not Address.parse(address).is_loopback]
    if store.limit > store.free and not store.exists:
        yield f"store.limit: {size_text(store.limit)}, but only {size_text(store.free)} are free"
    if config.users.htpasswd is not None:
        yield from _secret("users.htpasswd", config.users.htpasswd, 0o007)
    for host, upstream in config.upstreams.items():
        reached = [*exposed, *(address for address in upstream.listen if not Address.parse(address).is_loopback)]
        if reached and (upstream.readers or upstream.access == "pass-through") and config.server.tls is None:
            yield f'upstream."{host}": passwords of its readers come to {reached[0]} unencrypted'
        if upstream.account is not None:
            yield from _account(host, upstream, upstream.account, reached)


def _account(host: SourceHost, upstream: Upstream, account: Account, exposed: list[str]) -> Iterator[str]:
    key = f'upstream."{host}"'
    if exposed and not upstream.guarded:
        yield f"{key}: everybody who reaches {exposed[0]} can read {', '.join(upstream.repositories)} through its account"
    for url in upstream.urls:
        if url.startswith("http://") and not _is_local(url):
            yield f"{key}.urls: the account's password goes to {url} unencrypted"
    for name in ("password_file", "docker_config"):
        path: Path | None = getattr(account, name)
        if path is not None:
            yield from _secret(f"{key}.account.{name}", path, 0o077)


def _secret(key: str, path: Path, others: int) -> Iterator[str]:
    """What is wrong with the mode of a file. ``others``: the bits that it should not have."""
    if not os.access(path, os.R_OK):
        yield f"{key}: {path} cannot be read by this user"
    elif path.stat().st_mode & others:
        yield f"{key}: {path} can be read by other users"


def _is_local(url: str) -> bool:
    netloc = url.partition("://")[2].partition("/")[0]
    return Address.parse(netloc if netloc.rpartition(":")[2].isdigit() else f"{netloc}:80").is_loopback
