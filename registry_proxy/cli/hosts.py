"""``registry-proxy hosts``: the configuration of the clients."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from registry_proxy.cli.clients import CLIENTS, ClientFile, mirrors
from registry_proxy.cli.options import NO_FLAGS, Server, Setup, server_url
from registry_proxy.errors import RegistryProxyError

Client = Literal["containerd", "podman", "docker", "stargz", "soci", "nydus", "apptainer", "k3s"]


class FileInTheWay(RegistryProxyError):
    """A file that would have been written is there already and says something else."""


def hosts(
    client: Annotated[Client, Parameter(help="Which client; podman is also CRI-O, buildah and skopeo.")],
    /,
    *,
    write: Annotated[
        Path | None, Parameter(help="Write the files below this directory instead; / is where the client looks.")
    ] = None,
    server: Server = None,
    setup: Setup = NO_FLAGS,
) -> None:
    """Print or write the configuration that makes a client pull through this proxy.

    For example:

    - `registry-proxy hosts containerd`
    - `registry-proxy hosts containerd --server http://cache.example:5000 --write /`
    - `registry-proxy hosts podman --config /etc/registry-proxy/proxy.toml`
    """
    config = setup.load()
    files = CLIENTS[client](mirrors(config, server_url(server, config)))
    if write is None:
        show(files)
    else:
        install(files, write)


def show(files: list[ClientFile]) -> None:
    """Print the files; a single one as it is, so that it can be redirected."""
    for file in files:
        out = sys.stderr if len(files) == 1 else sys.stdout
        print(f"# {file.path}", file=out)
        print(file.text)


def install(files: list[ClientFile], root: Path) -> None:
    """Write the files below ``root``; raises FileInTheWay before anything is written if one of them would change a file."""
    for file in files:
        path = root / file.path.lstrip("/")
        if path.exists() and path.read_text() != file.text:
            raise FileInTheWay(
                f"{path} is there already and differs: merge it by hand (registry-proxy hosts prints what belongs in it)"
            )
    for file in files:
        path = root / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text)
        print(path)
