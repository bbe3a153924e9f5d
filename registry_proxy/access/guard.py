"""The gates of all guarded upstreams. An open upstream has none, and costs nothing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from registry_proxy.access.gate import Gate
from registry_proxy.oci.names import SourceHost

Guard = Mapping[SourceHost, Gate]
"""Asked before anything of an upstream is served."""

OPEN: Final[Guard] = MappingProxyType({})
"""No upstream is guarded."""
