"""Whom to believe about the names of upstreams: the system's authorities, and those of a file."""

import ssl

from registry_proxy.config import Config, Upstream
from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.names import SourceHost


def authorities(host: SourceHost, settings: Upstream) -> ssl.SSLContext | bool:
    """A context with the authorities of this upstream's ``ca`` as well; True: the system's alone. Raises ConfigInvalid. Blocks."""
    if settings.ca is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=settings.ca)
    except ssl.SSLError:
        why = "no certificates (PEM)"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        return context
    raise ConfigInvalid(f'upstream."{host}".ca: {settings.ca}: {why}')


def check_authorities(config: Config) -> None:
    """Return if those of every upstream can be read; raises ConfigInvalid. Blocks."""
    for host, settings in config.upstreams.items():
        authorities(host, settings)
