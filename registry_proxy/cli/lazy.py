"""``registry-proxy lazy``: look into images without pulling them."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from registry_proxy.cli.cached import CachedLayer, Share, cached_layer
from registry_proxy.cli.http import Instance
from registry_proxy.cli.making import cancel, convert, status
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, image_name
from registry_proxy.cli.output import print_json, waiting
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.remote import LayerUnreadable, RemoteImage, indexed
from registry_proxy.cli.warm import through_instance
from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.names import ImageName

if TYPE_CHECKING:  # the formats are imported when a verb runs
    from registry_proxy.lazy.files import LayerIndex
    from registry_proxy.lazy.image import Place

Image = Annotated[str, Parameter(name="IMAGE", help="Image name: HOST/REPOSITORY[:TAG][@DIGEST].")]
PlatformName = Annotated[
    str | None, Parameter(name="--platform", help="OS/ARCHITECTURE[/VARIANT]; default: this machine's.")
]
Ztocs = Annotated[
    Path | None,
    Parameter(name="--ztocs", help="Directory of zTOCs made by `lazy index`, for layers that carry no index."),
]

lazy = App(name="lazy", sort_key=8, help="Make images lazy, and look into them file by file without pulling them.")
for verb in (convert, status, cancel):
    lazy.command(verb)

_BLOCK: Final = 1 << 20


@lazy.command
def ls(
    image: Image,
    /,
    *,
    platform: PlatformName = None,
    ztocs: Ztocs = None,
    server: Server = None,
    ca: Ca = None,
    json: Json = False,
    setup: Setup = NO_FLAGS,
) -> None:
    """List an image's files: size, kind, layer, the layer's format, how much of it is cached, path.

    Of eStargz and zstd:chunked layers only the table of contents is fetched. An ordinary gzip layer has none: its zTOC is taken
    from --ztocs, else from the instance (see `lazy convert --format soci`), else made on the spot, for which the whole layer is fetched.

    Cached (all, part, none) is what the store of the configuration had before that; a question mark, if the store cannot be read
    here or --server names an instance without the --store or --config that it has.
    """
    from registry_proxy.lazy.image import merged

    name, wanted, config = image_name(image), _wanted(platform), setup.load()
    _check_directory(ztocs)
    store = config.store.path if server is None or setup.store or setup.config else None

    def work(instance: Instance) -> "list[tuple[LayerIndex, CachedLayer | None]]":
        with waiting(_indexing(name)):
            remote = RemoteImage.find(instance, name, wanted, ztocs)
            cached = [
                cached_layer(store, layer) if store else None for layer in remote.layers
            ]  # before anything is fetched
            return [(remote.open(layer).index, here) for layer, here in zip(remote.layers, cached, strict=True)]

    found = asyncio.run(through_instance(config, server, work, ca))
    rows = [_row(path, place, *found[place.layer]) for path, place in sorted(merged(x for x, _ in found).items())]
    if json:
        print_json({"image": str(name), "files": [asdict(row) for row in rows]})
        return
    for row in rows:
        link = f" -> {_shown(row.link)}" if row.link else ""
        print(f"{row.size:>12} {row.kind:<8} {row.layer:>3} {row.format:<12} {_state(row):<5} {_shown(row.path)}{link}")


@lazy.command
def cat(
    image: Image,
    path: Annotated[str, Parameter(name="PATH", help="The file's path in the image; symbolic links are followed.")],
    /,
    *,
    platform: PlatformName = None,
    ztocs: Ztocs = None,
    server: Server = None,
    ca: Ca = None,
    setup: Setup = NO_FLAGS,
) -> None:
    """Write a file of an image to standard output; only the parts of the layer that hold it are fetched, and checked.

    Of an ordinary gzip layer whose zTOC is neither in --ztocs nor at the instance the whole is fetched once, to make it.
    """
    from registry_proxy.lazy.files import regular_file
    from registry_proxy.lazy.image import find, merged

    name, wanted = image_name(image), _wanted(platform)
    _check_directory(ztocs)

    def work(instance: Instance) -> None:
        with waiting(_indexing(name)):
            remote = RemoteImage.find(instance, name, wanted, ztocs)
            layers = [remote.open(layer) for layer in remote.layers]
        place = find(merged(layer.index for layer in layers), path)
        layer = layers[place.layer]
        for piece in layer.index.content(regular_file(layer.index, place.file.path), layer.read):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    asyncio.run(through_instance(setup.load(), server, work, ca))


@lazy.command
def index(
    layer: Annotated[Path, Parameter(name="LAYER-FILE", help="A gzip layer as it lies in an OCI layout or registry.")],
    /,
    *,
    to: Annotated[Path, Parameter(name="--to", help="Directory for the zTOC.")] = Path(),
) -> None:
    """Write the zTOC of a layer file to `DIR/SHA256-OF-THE-LAYER.ztoc`: what SOCI's own tool would write, byte for byte."""
    from registry_proxy.lazy.failures import LayerRefused
    from registry_proxy.lazy.ztoc.ztoc import encode

    try:
        with layer.open("rb") as source:
            digest, ztoc = indexed(lambda receive: _pour(source.read, receive))
    except LayerRefused as error:
        raise LayerUnreadable(f"{layer}: {error}") from error
    path = to / f"{digest.hex}.ztoc"
    _write(path, encode(ztoc))
    print(path)


@dataclass(frozen=True, slots=True)
class _Row:
    """A file of ``lazy ls``. ``cached``: None if there is nothing to cache or nobody knows."""

    size: int
    kind: str
    layer: int
    format: str
    cached: Share | None
    path: str
    link: str


def _row(path: str, place: "Place", index: "LayerIndex", here: CachedLayer | None) -> _Row:
    cached = here.share(index, place.file.path) if here else None
    return _Row(place.file.size, place.file.kind, place.layer, index.format, cached, path, place.file.link)


def _state(row: _Row) -> str:
    return row.cached or ("?" if row.kind in ("reg", "hardlink") else "-")


def _indexing(name: ImageName) -> str:
    return f"looking into the layers of {name}"


def _check_directory(ztocs: Path | None) -> None:
    """Raises ConfigInvalid: with a wrong directory each layer would be fetched whole."""
    if ztocs is not None and not ztocs.is_dir():
        raise ConfigInvalid(f"--ztocs: {ztocs}: no such directory")


def _wanted(platform: str | None) -> Wanted:
    return Wanted.parse(platform) if platform else Wanted.here()


def _pour(read: Callable[[int], bytes], receive: Callable[[bytes], object]) -> None:
    while block := read(_BLOCK):
        receive(block)


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).rename(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _shown(text: str) -> str:
    """A name as a terminal may have it: what is not printable is escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
