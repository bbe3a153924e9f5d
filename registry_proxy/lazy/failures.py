"""What can be wrong with a layer or with what claims to be its index."""

from registry_proxy.errors import RegistryProxyError


class LayerRefused(RegistryProxyError):
    """The layer cannot be indexed: broken, hostile, or of a form that has no right index."""


class IndexInvalid(RegistryProxyError):
    """An index is malformed, contradicts itself, or does not fit the bytes of its layer."""


class TocTooLarge(IndexInvalid):
    """A table of contents beyond a bound; nothing is wrong with it."""


class FileUnknown(RegistryProxyError):
    """The layer or image has no such regular file."""


class WorkerDied(RegistryProxyError):
    """A worker process ended, or fell silent, without a product."""
