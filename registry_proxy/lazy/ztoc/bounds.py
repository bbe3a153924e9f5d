"""How much a layer may ask of whoever indexes it. Images come from anywhere; a bomb must cost little."""

from dataclasses import dataclass

from registry_proxy.lazy.failures import LayerRefused

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """``layer``: bytes uncompressed; ``ratio``: uncompressed to compressed, looked at beyond ``free`` bytes;
    ``index``: bytes of the index in memory (points of 32 KiB each, and names), which also bounds the number of files.
    """

    layer: int = 256 << 30
    ratio: int = 250
    free: int = 256 * MIB
    index: int = 512 * MIB

    def check(self, compressed: int, uncompressed: int) -> None:
        """Raises LayerRefused for a layer that has grown beyond its bounds."""
        if uncompressed > self.layer:
            raise LayerRefused(f"the layer is larger than {self.layer} bytes uncompressed")
        if uncompressed > self.free and uncompressed > self.ratio * compressed:
            raise LayerRefused(f"the layer grows more than {self.ratio}-fold when uncompressed")

    def check_index(self, size: int) -> None:
        """Raises LayerRefused for an index that has grown beyond its bound."""
        if size > self.index:
            raise LayerRefused(f"the index of the layer would be larger than {self.index} bytes")


DEFAULT = Bounds()
