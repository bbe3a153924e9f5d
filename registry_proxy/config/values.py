"""The configuration as frozen values. The loader makes it; every room gets the part it needs.

``Seconds`` and ``Size`` are a float and an int that the loader also reads from text (``"5m"``, ``"500GiB"``).
"""

from pathlib import Path
from typing import Literal

import msgspec

from registry_proxy.config.units import Seconds, Size
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.chunks import MIB


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proxy's own account at an upstream: a name and password, or where docker keeps them."""

    username: str = ""
    password: str = ""
    password_file: Path | None = None
    docker_config: Path | None = None

    def __repr__(self) -> str:
        return f"Account(username={self.username!r}, …)"  # a configuration in a log line shows no secret


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on every wait for an upstream."""

    connect: Seconds = Seconds(5)
    header: Seconds = Seconds(15)
    idle: Seconds = Seconds(30)


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream: where the content of a source host is pulled from.

    ``urls``: the registry and its mirrors, tried in order. ``repositories``: patterns (fnmatch) that an account may be
    used for. ``redirect_hosts``: patterns of hosts that blobs may be redirected to; empty: any public host. ``access``: who may
    read through the proxy: whoever reaches it, those whose own credentials the upstream takes, or the proxy's own users.
    ``readers``: patterns of what each of those users may read; ``networks``: where clients may come from, empty: anywhere.
    """

    urls: tuple[str, ...]
    access: Literal["open", "pass-through", "local"] = "open"
    account: Account | None = None
    repositories: tuple[str, ...] = ()
    readers: dict[str, tuple[str, ...]] = {}
    networks: tuple[str, ...] = ()
    ca: Path | None = None
    forward_proxy: str | None = None
    realms: tuple[str, ...] = ()
    redirect_hosts: tuple[str, ...] = ()
    timeouts: Timeouts = Timeouts()
    connections: int = 8
    tag_fresh: Seconds | None = None
    eager_siblings: bool = True
    catalog: bool = False
    listen: tuple[str, ...] = ()

    @property
    def guarded(self) -> bool:
        """True if not everybody who reaches the proxy may read: nothing of it enters what is shared with others."""
        return self.access != "open"

    @property
    def for_everybody(self) -> bool:
        """True if whoever reaches the proxy may read what we may."""
        return not self.guarded and not self.networks

    @property
    def private(self) -> bool:
        """True if some of what is fetched from it may not be for everybody."""
        return not self.for_everybody or self.account is not None


class Forwarding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The site's forward proxies, on the way to parents and to CVMFS servers.

    ``groups``, ``fallback``: as CVMFS_HTTP_PROXY and CVMFS_FALLBACK_PROXY have them; ``shard``: each member of a group keeps its
    share of the content, instead of one member everything. ``timeout``: to the headers of an answer, and the window of the
    low-speed rule, through a forward proxy; ``timeout_direct``: the same without one. ``low_speed``: bytes per second.
    """

    groups: str = "DIRECT"
    fallback: str = ""
    shard: bool = True
    timeout: Seconds = Seconds(5)
    timeout_direct: Seconds = Seconds(10)
    low_speed: Size = Size(32 << 10)
    reset_after: Seconds = Seconds(300)


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Instances nearer to the upstreams, which are asked for chunks before an upstream is. ``connections``: requests at a time."""

    urls: tuple[str, ...] = ()
    connections: int = 16


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS on the listeners (PEM files). ``certificate``: with its chain; ``client_ca``: who must have signed a client's certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"


class Users(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proxy's own users. ``htpasswd``: a file of their passwords, by bcrypt or argon2."""

    htpasswd: Path | None = None


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listeners and their limits. ``drain``: how long running bodies may finish after SIGTERM.

    ``workers``: processes that answer requests; beyond one, a process of its own fetches for them.

    ``max_url``, ``max_header``: bytes of a request's URL, and of one header. ``connections``: open at the same time, all together
    and per client address; ``requests_per_client``: per second; ``bodies``: answers with content at the same time; ``queue``:
    requests that may wait, for the rate (per client) and for a body (all together).
    """

    listen: tuple[str, ...] = ("127.0.0.1:5000",)
    workers: int = 1
    header_timeout: Seconds = Seconds(30)
    idle_timeout: Seconds = Seconds(75)
    max_ranges: int = 1024
    max_url: Size = Size(16 << 10)
    max_header: Size = Size(64 << 10)
    connections: int = 16384
    connections_per_client: int = 4096
    requests_per_client: int = 20000
    bodies: int = 8192
    queue: int = 2048
    drain: Seconds = Seconds(20)
    tls: Tls | None = None


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The instance's own chunks. ``limit``: bytes on disk; None: a fifth of free space + own use."""

    path: Path
    limit: Size | None = None
    chunk_size: Size = Size(MIB)
    open_files: int = 512


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Freshness, patience and what may be bought for nobody.

    ``tag_fresh``: how long a tag is served without asking. ``slow``: how long a revalidation may take before the stale
    manifest is served. ``patience``: how far away, in time, a span may be before the client gets 503. ``sibling_budget``:
    bytes of sibling layers started eagerly per image. ``orphan_budget``: bytes that range-less flights without waiters may
    still fetch. ``verdict``: how long a yes to a client of a guarded upstream holds. ``sources``: the kinds of sources that are
    configured, in the order in which they are asked.
    """

    tag_fresh: Seconds = Seconds(60)
    miss_remembered: Seconds = Seconds(5)
    slow: Seconds = Seconds(5)
    offline: bool = False
    patience: Seconds = Seconds(20)
    read_ahead: Size = Size(8 * MIB)
    sibling_budget: Size = Size(16 << 30)
    orphan_budget: Size = Size(64 << 30)
    verdict: Seconds = Seconds(60)
    sources: tuple[Literal["parent", "cvmfs-http", "upstream"], ...] = ("parent", "cvmfs-http", "upstream")


class Logging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Cvmfs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mounted CVMFS repository, or any directory with blobs in that form. ``time_limit``: for each call on its file system."""

    path: Path
    time_limit: Seconds = Seconds(5)


class CvmfsHttp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A CVMFS repository read over HTTP.

    ``servers``: its URLs, tried in order; ``external``: those that have its external data. ``keys``: its master keys (PEM).
    ``forward_proxies``: groups for this repository alone. ``patience``: what a look-up may take before the next source is tried.
    """

    repository: str
    servers: tuple[str, ...]
    keys: tuple[Path, ...]
    external: tuple[str, ...] = ()
    forward_proxies: str | None = None
    blacklist: Path | None = None
    patience: Seconds = Seconds(10)


Readiness = Literal["eager", "on-demand", "off"]
Unready = Literal["wait", "original", "not-found"]
VerifyChunks = Literal["before", "behind", "off"]


class LazyRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for some images instead of ``Lazy``'s own words. ``images``: patterns (fnmatch) of ``HOST/REPOSITORY``."""

    images: tuple[str, ...]
    soci: Readiness | None = None
    estargz: Readiness | None = None
    span_size: Size | None = None
    smallest_layer: Size | None = None
    unready: Unready | None = None


class Lazy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is made of ordinary images so that they start lazily, and for whom.

    ``span_size``: of a zTOC, uncompressed; ``smallest_layer``: with a zTOC, compressed. ``unready``: what the first request for a
    suffix tag gets, ``wait``: for how long. ``platforms``: of an image index (``os/architecture[/variant]``); none: this machine's.
    ``workers``: processes at a time; ``limit``: bytes of all that was made; None: half of the store. ``rules``: the first that
    matches an image holds. ``verify_chunks``: when the chunks of a partial blob are compared with its table of contents, before or
    behind their readers.
    """

    soci: Readiness = "on-demand"
    estargz: Readiness = "on-demand"
    soci_suffix: str = "-soci"
    estargz_suffix: str = "-esgz"
    span_size: Size = Size(4 * MIB)
    smallest_layer: Size = Size(10 * MIB)
    unready: Unready = "wait"
    wait: Seconds = Seconds(20)
    platforms: tuple[str, ...] = ()
    workers: int = 2
    limit: Size | None = None
    verify_chunks: VerifyChunks = "behind"
    rules: tuple[LazyRule, ...] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything. ``htpasswd``: the hashes of the users in that file, by name; only who serves reads it (``config.users``)."""

    store: Store
    upstreams: dict[SourceHost, Upstream]
    server: Server = Server()
    users: Users = Users()
    policy: Policy = Policy()
    parent: Parent = Parent()
    forward_proxies: Forwarding = Forwarding()
    log: Logging = Logging()
    cvmfs: tuple[Cvmfs, ...] = ()
    cvmfs_http: tuple[CvmfsHttp, ...] = ()
    lazy: Lazy = Lazy()
    htpasswd: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Config(store={self.store!r}, …)"  # nor here
