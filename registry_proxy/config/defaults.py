"""What holds without a configuration file: the public registries that are known, and where the store lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.names import SourceHost

PUBLIC: Final = (
    SourceHost("docker.io"),
    SourceHost("ghcr.io"),
    SourceHost("quay.io"),
    SourceHost("registry.k8s.io"),
    SourceHost("gcr.io"),
    SourceHost("public.ecr.aws"),
    SourceHost("mcr.microsoft.com"),
    SourceHost("nvcr.io"),
    SourceHost("registry.gitlab.com"),
    SourceHost("gitlab-registry.cern.ch"),
)
"""The source hosts that an instance knows unless ``default_upstreams = false``."""


def registry_urls(host: SourceHost) -> tuple[str, ...]:
    """Where a source host's registry answers if no ``urls`` are configured."""
    return ("https://registry-1.docker.io",) if host == "docker.io" else (f"https://{host}",)


def store_path(environ: Mapping[str, str]) -> Path:
    """``registry-proxy`` in the user's cache directory (XDG base directory spec); raises ConfigInvalid without a home."""
    cache = environ.get("XDG_CACHE_HOME", "")
    if cache.startswith("/"):  # the spec wants a relative one ignored
        return Path(cache, "registry-proxy")
    try:
        return Path.home() / ".cache" / "registry-proxy"
    except RuntimeError:
        raise ConfigInvalid(
            "store.path: this user has no home directory: say where the store goes (--store DIR)"
        ) from None
