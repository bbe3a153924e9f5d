"""The files that make each kind of client pull through an instance. Pure: from where the instance is to path and text.

What each client reads, sends and falls back to differs more than it looks; the comments in the files say what an admin must know.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from registry_proxy.config import Config
from registry_proxy.config.address import Address
from registry_proxy.oci.names import SourceHost


@dataclass(frozen=True, slots=True)
class ClientFile:
    """One file of a client's configuration. ``path``: where the client looks for it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """How clients reach one source host. ``own``: by a listener that serves nothing else, so that nobody needs to name it."""

    host: SourceHost
    url: str
    own: bool

    @property
    def netloc(self) -> str:
        """``host:port`` of the URL."""
        return urlsplit(self.url).netloc

    @property
    def insecure(self) -> bool:
        """True for plain HTTP."""
        return self.url.startswith("http://")


Template = Callable[[list[Mirror]], list[ClientFile]]


def mirrors(config: Config, server: str) -> list[Mirror]:
    """One per upstream. ``server``: URL of the instance as its clients reach it."""
    return [_mirror(host, upstream.listen, server) for host, upstream in config.upstreams.items()]


def _mirror(host: SourceHost, listen: tuple[str, ...], server: str) -> Mirror:
    own = next((at for at in map(Address.parse, listen) if at.path is None), None)
    if own is None:
        return Mirror(host, server, own=False)
    url = urlsplit(server)
    name = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return Mirror(host, f"{url.scheme}://{name}:{own.port}", own=True)


def containerd(found: list[Mirror]) -> list[ClientFile]:
    """A hosts.toml per source host (containerd docs/hosts.md); containerd adds ``?ns=`` by itself."""
    return [
        ClientFile(
            f"/etc/containerd/certs.d/{mirror.host}/hosts.toml",
            f"""\
# containerd reads this if its config_path names /etc/containerd/certs.d; no restart is needed.
# Without a `server` line it falls back to {mirror.host} itself.
[host."{mirror.url}"]
  capabilities = ["pull", "resolve"]
""",
        )
        for mirror in found
    ]


def podman(found: list[Mirror]) -> list[ClientFile]:
    """registries.conf for podman, buildah, skopeo and CRI-O (containers-registries.conf(5))."""
    head = """\
# podman, buildah and skopeo read this at once; CRI-O after `systemctl reload crio`.
# A mirror is chosen once per pull, by its answer to the manifest.
"""
    return [_registries_conf(head, found)]


def apptainer(found: list[Mirror]) -> list[ClientFile]:
    """registries.conf for Apptainer 1.4.2 and later, which takes the first mirror and never falls back."""
    head = """\
# Apptainer 1.4.2 or later reads this; it takes the first mirror only and never falls back to the registry.
"""
    return [_registries_conf(head, found)]


def _registries_conf(head: str, found: list[Mirror]) -> ClientFile:
    tables = [
        f"""
[[registry]]
prefix = "{mirror.host}"
location = "{mirror.host}"
[[registry.mirror]]
location = "{mirror.netloc if mirror.own else f"{mirror.netloc}/{mirror.host}"}"
insecure = {str(mirror.insecure).lower()}
"""
        for mirror in found
    ]
    return ClientFile("/etc/containers/registries.conf.d/50-registry-proxy.conf", head + "".join(tables))


def docker(found: list[Mirror]) -> list[ClientFile]:
    """daemon.json; Docker asks mirrors for Docker Hub's images only."""
    urls = [mirror.url for mirror in found if mirror.host == "docker.io"]
    return [ClientFile("/etc/docker/daemon.json", json.dumps({"registry-mirrors": urls}, indent=2) + "\n")]


def stargz(found: list[Mirror]) -> list[ClientFile]:
    """The stargz snapshotter's own mirrors: it reads no hosts.toml and (0.18) sends no ``ns``, so a header names the source host."""
    head = """\
# The stargz snapshotter asks for layers by itself and reads no hosts.toml: containerd needs `registry-proxy hosts containerd` too.
"""
    tables = [
        f"""
[[resolver.host."{mirror.host}".mirrors]]
host = "{mirror.netloc}"
insecure = {str(mirror.insecure).lower()}
[resolver.host."{mirror.host}".mirrors.header]
OCI-Namespace = "{mirror.host}"
"""
        for mirror in found
    ]
    return [ClientFile("/etc/containerd-stargz-grpc/config.toml", head + "".join(tables))]


def soci(found: list[Mirror]) -> list[ClientFile]:
    """The SOCI snapshotter finds its index in the registry that the image's name says, never in a mirror: images carry our name."""
    example = found[0]
    name = example.netloc if example.own else f"{example.netloc}/{example.host}"
    by_netloc = {mirror.netloc: mirror for mirror in found}
    head = f"""\
# The SOCI snapshotter looks for its index in the registry that the image's name says, never in a mirror:
# pull images by this server's name, such as {name}/library/python:3-soci

# For plain tags too, whose index is among the image's referrers (off by default since 0.10):
# [pull_modes.soci_v1]
# enable = true
"""
    if any(mirror.insecure for mirror in found):
        head += """
# Snapshotters without pull request 2040 (July 2026) look for the index by https, unless this server is localhost:
# there, plain http means that nothing is ever read lazily.
"""
    tables = [
        f"""
[[resolver.host."{netloc}".mirrors]]
host = "{mirror.url}"
insecure = {str(mirror.insecure).lower()}
"""
        for netloc, mirror in by_netloc.items()
    ]
    hosts = [
        ClientFile(f"/etc/containerd/certs.d/{netloc}/hosts.toml", f'server = "{mirror.url}"\n')
        for netloc, mirror in by_netloc.items()
    ]
    return [ClientFile("/etc/soci-snapshotter-grpc/config.toml", head + "".join(tables)), *hosts]


def nydus(found: list[Mirror]) -> list[ClientFile]:
    """Mirrors of the nydus snapshotter: chosen at mount time by the ping URL, no fallback afterwards."""
    return [
        ClientFile(
            f"/etc/nydus/certs.d/{_nydus_name(mirror.host)}/hosts.toml",
            f"""\
# In the nydus snapshotter's config.toml: [remote.mirrors_config] dir = "/etc/nydus/certs.d"
[host."{mirror.url}"]
  ping_url = "{mirror.url}/healthz"
  [host."{mirror.url}".header]
    OCI-Namespace = "{mirror.host}"
""",
        )
        for mirror in found
    ]


def _nydus_name(host: SourceHost) -> str:
    return "index.docker.io" if host == "docker.io" else host  # the snapshotter renames it before it looks for mirrors


def k3s(found: list[Mirror]) -> list[ClientFile]:
    """registries.yaml for k3s and RKE2, which render it to containerd's hosts.toml."""
    entries = [
        f"""\
  "{mirror.host}":
    endpoint:
      - "{mirror.url}"
"""
        for mirror in found
    ]
    text = "# Restart k3s (or rke2: /etc/rancher/rke2/registries.yaml) to apply.\nmirrors:\n" + "".join(entries)
    return [ClientFile("/etc/rancher/k3s/registries.yaml", text)]


CLIENTS: Mapping[str, Template] = {
    "containerd": containerd,
    "podman": podman,
    "docker": docker,
    "stargz": stargz,
    "soci": soci,
    "nydus": nydus,
    "apptainer": apptainer,
    "k3s": k3s,
}
