"""``registry-proxy publish``: write images into a tree that CVMFS carries."""

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from registry_proxy.cli.http import Instance
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, image_name
from registry_proxy.cli.output import counted, print_json, print_outcome
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.publishing import Published, chunk_size_of, publish_all, publish_image
from registry_proxy.cli.warm import Bars, through_instance
from registry_proxy.config.units import size_text
from registry_proxy.errors import ConfigInvalid
from registry_proxy.export import wishlist
from registry_proxy.export.grafts import Algorithm
from registry_proxy.export.tree import Tree


def publish(
    *image: Annotated[
        str, Parameter(name="IMAGE", help="Image names as for podman or docker: HOST/REPOSITORY[:TAG][@DIGEST].")
    ],
    to: Annotated[Path, Parameter(help="Top of the tree: a repository in a cvmfs_server transaction, say.")],
    images: Annotated[Path | None, Parameter(help="A wish list in DUCC's YAML form, beside the images named.")] = None,
    platform: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            show_default=False,
            help="OS/ARCHITECTURE[/VARIANT], may be repeated, or all; default: this machine's.",
        ),
    ] = (),
    graft: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="Grafts instead of blobs: an instance serves their bytes, CVMFS only checks them.",
        ),
    ] = False,
    hash: Annotated[Algorithm, Parameter(help="Hash of grafts: as the repository is set up.")] = "sha1",  # noqa: A002
    server: Server = None,
    ca: Ca = None,
    json: Json = False,
    setup: Setup = NO_FLAGS,
) -> int:
    """Write verified blobs and manifests of images into a tree that CVMFS carries and the cvmfs tiers read.

    Only what is new is written, each file at once; an interrupted run is simply repeated. Images that not everybody may pull are
    refused. A running instance is read from; if none listens where the configuration says, one runs for as long as this takes.

    For example:

    - `registry-proxy publish --to /cvmfs/images.example.org docker.io/library/alpine:3.20`
    - `registry-proxy publish --to /cvmfs/images.example.org --images wishlist.yaml --platform all`
    - `registry-proxy publish --to /cvmfs/images.example.org --graft --server http://cache.example:5000 alpine`
    """
    wishes = [*map(image_name, image), *(_wish_list(images) if images else ())]
    if not wishes:
        raise ConfigInvalid("publish: name at least one image, or a wish list with --images")
    config = setup.load()
    wanted = [Wanted.parse(text) for text in platform] or [Wanted.here()]

    def work(instance: Instance) -> list[Published]:
        chunk_size = chunk_size_of(instance)
        with Tree(to, (chunk_size, hash) if graft else None) as tree, Bars() as bars:
            one = partial(publish_image, instance, wanted=wanted, tree=tree, chunk_size=chunk_size, watcher=bars)
            return publish_all(instance, wishes, one)

    found = asyncio.run(through_instance(config, server, work, ca))
    if json:
        print_json({"images": [asdict(one) for one in found]})
    else:
        for one in found:
            what = f"{counted(one.manifests, 'manifest')} and {counted(one.blobs, 'blob')} ({size_text(one.bytes)}) published"
            print_outcome(one.image, f"{what}, {counted(one.present, 'blob')} there already,", one.seconds, one.error)
    return 1 if any(one.error for one in found) else 0


def _wish_list(path: Path) -> tuple[wishlist.Wish, ...]:
    """Raises ConfigInvalid with the file's name."""
    try:
        return wishlist.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: not UTF-8 text") from None
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error}") from None
