"""The gates of all guarded upstreams. An open upstream has none, and costs nothing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from registry_proxy.access.gate import Gate, TokenRealm
from registry_proxy.oci.names import SourceHost

Guard = Mapping[SourceHost, Gate]
"""Asked before anything of an upstream is served."""

Realms = Mapping[SourceHost, TokenRealm]
"""Where the clients of pass-through upstreams get their tokens."""

OPEN: Final[Guard] = MappingProxyType({})
"""No upstream is guarded."""

NO_REALMS: Final[Realms] = MappingProxyType({})
"""No tokens are given out."""
