"""``registry-proxy serve``: run an instance in the foreground."""

import asyncio
import os
import socket
import sys

from registry_proxy import __version__
from registry_proxy.cli.options import NO_FLAGS, Setup, Workers
from registry_proxy.config import Config
from registry_proxy.config.units import size_text
from registry_proxy.config.users import with_users
from registry_proxy.net.trust import check_authorities


def serve(*, workers: Workers = None, setup: Setup = NO_FLAGS) -> None:
    """Run the proxy until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.

    For example:

    - `registry-proxy serve`
    - `registry-proxy serve --listen :5000 --store /var/cache/registry-proxy --store-limit 500GiB`
    - `registry-proxy serve --config /etc/registry-proxy/proxy.toml`
    - `registry-proxy serve --upstream gitlab.example=http://127.0.0.1:5001`
    """

    def read() -> Config:
        config = with_users(setup.load(workers))
        check_authorities(config)
        return config

    config = read()  # first: a mistake in it is told at once
    if config.server.workers > 1:
        from registry_proxy.workers.supervisor import serve as run
    else:
        from registry_proxy.app import serve as run

    def ready(urls: list[str]) -> None:
        if sys.stderr.isatty():
            print(welcome(config, urls), file=sys.stderr, flush=True)
        notify_systemd(os.environ.get("NOTIFY_SOCKET"))

    asyncio.run(run(config, ready=ready, reread=read))


def welcome(config: Config, urls: list[str]) -> str:
    """What a person who has just started an instance wants to know next."""
    url = urls[0].replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")
    limit = size_text(config.store.limit) if config.store.limit is not None else "a fifth of the free space"
    return f"""\
registry-proxy {__version__} listens on {", ".join(urls)}
  store: {config.store.path}, at most {limit}
  knows: {", ".join(config.upstreams)}

containerd: put this into /etc/containerd/certs.d/_default/hosts.toml
  [host."{url}"]
    capabilities = ["pull", "resolve"]
other clients: registry-proxy hosts podman (or docker, stargz, soci, nydus, apptainer, k3s)
look at it:    {url}/ in a browser, or registry-proxy stats
try it:        curl {url}/readyz
               podman pull --tls-verify=false {url.partition("//")[2]}/docker.io/library/alpine
"""


def notify_systemd(address: str | None) -> None:
    """Tell systemd that the service is up: sd_notify(3), one datagram. ``address``: $NOTIFY_SOCKET; None: nobody listens."""
    if not address:
        return
    path = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        notifier.connect(path)
        notifier.sendall(b"READY=1")
