"""Options that several verbs share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from registry_proxy.config import Config, Flags, load
from registry_proxy.config.address import Address
from registry_proxy.config.rules import check_registry_url
from registry_proxy.errors import BadRequest, ConfigInvalid, ManifestUnknown
from registry_proxy.oci.names import ImageName

ConfigFile = Annotated[
    Path | None,
    Parameter(name=["--config", "-c"], help="Configuration file (TOML); default: $REGISTRY_PROXY_CONFIG, else none."),
]
Listen = Annotated[
    tuple[str, ...],
    Parameter(
        name="--listen",
        negative="",
        show_default=False,
        help="HOST:PORT to listen on; may be repeated. ':5000' is every interface.",
    ),
]
StoreDirectory = Annotated[Path | None, Parameter(name="--store", help="Directory of the chunk store.")]
StoreLimit = Annotated[
    str | None,
    Parameter(name="--store-limit", help="Most the store may hold: 500GiB, or 20% of the file system it lies on."),
]
Upstreams = Annotated[
    tuple[str, ...],
    Parameter(
        name="--upstream",
        negative="",
        show_default=False,
        help="NAME=URL: pull images named NAME/… from URL; may be repeated, the same NAME again adds a mirror. Replaces the file's table.",
    ),
]
Parents = Annotated[
    tuple[str, ...],
    Parameter(
        name="--parent",
        negative="",
        show_default=False,
        help="URL of an instance nearer to the upstreams, to be asked for chunks first; may be repeated.",
    ),
]
ForwardProxies = Annotated[
    str | None,
    Parameter(
        name="--forward-proxies",
        help="Squids on the way to parents: 'http://a:3128|http://b:3128;DIRECT' as in CVMFS_HTTP_PROXY, which is the default.",
    ),
]
Cvmfs = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--cvmfs",
        negative="",
        show_default=False,
        help="Mount point of a CVMFS repository with published blobs, to be read before anything is fetched; may be repeated.",
    ),
]
Workers = Annotated[
    int | None,
    Parameter(name="--workers", help="Processes that answer requests: one for each core to be used; default: 1."),
]
Server = Annotated[
    str | None, Parameter(name="--server", help="URL of a running instance; default: the first address it listens on.")
]
Ca = Annotated[
    Path | None,
    Parameter(name="--ca", help="CA certificates (PEM) that sign an https:// instance; default: the system's."),
]
Json = Annotated[
    bool,
    Parameter(
        name="--json", negative="", show_default=False, help="One JSON document on standard output, for programs."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Setup:
    """Where the configuration comes from: a file, and flags that win over it."""

    config: ConfigFile = None
    listen: Listen = ()
    store: StoreDirectory = None
    store_limit: StoreLimit = None
    upstream: Upstreams = ()
    parent: Parents = ()
    forward_proxies: ForwardProxies = None
    cvmfs: Cvmfs = ()

    def load(self, workers: int | None = None) -> Config:
        """The configuration; raises ConfigInvalid. ``workers``: what ``serve`` was given."""
        flags = Flags(
            self.listen,
            self.store,
            self.store_limit,
            self.upstream,
            self.parent,
            self.forward_proxies,
            self.cvmfs,
            workers,
        )
        return load(self.config, os.environ, flags)


NO_FLAGS: Final = Setup()


def server_url(given: str | None, config: Config) -> str:
    """The URL of the instance: as given, else where this configuration listens first; raises ConfigInvalid."""
    if given is None:
        scheme = "http" if config.server.tls is None else "https"
        for address in map(Address.parse, config.server.listen):
            if address.path is None:
                return f"{scheme}://{address.netloc}"
        raise ConfigInvalid("server.listen: only Unix sockets: name an instance on TCP by --server URL")
    try:
        return check_registry_url(given)
    except ValueError as error:
        raise ConfigInvalid(f"--server: {error}") from None


def image_name(text: str) -> ImageName:
    """An image name of the command line; raises ConfigInvalid."""
    if "://" in text:
        raise ConfigInvalid(f"{text[:160]}: write an image's name without {text.partition('://')[0][:80]}://")
    try:
        return ImageName.parse(text)
    except (BadRequest, ManifestUnknown) as error:
        raise ConfigInvalid(f"{text[:160] or 'image'}: {error}") from None
