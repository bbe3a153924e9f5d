"""``registry-proxy lazy convert|status|cancel``: having lazy forms of images made, and looking at how far that is."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from cyclopts import Parameter

from registry_proxy.cli.conversion import IN_HAND, Conversion, Form, lazy_stats
from registry_proxy.cli.copying import Target, copy_image
from registry_proxy.cli.http import Instance
from registry_proxy.cli.layout import Layout
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, image_name, server_url
from registry_proxy.cli.output import print_json, print_outcome, print_table
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warm import Bars, through_instance
from registry_proxy.config import Account, Config
from registry_proxy.config.rules import check_registry_url
from registry_proxy.config.units import size_text
from registry_proxy.errors import ConfigInvalid, NameInvalid, RegistryProxyError
from registry_proxy.oci import names as oci_names
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import ImageName, Tag

if TYPE_CHECKING:  # pushing needs more than the other verbs
    from registry_proxy.net.accounts import Credential

_BEYOND_WAIT = 30.0
"""Seconds that an instance may take to answer after it has waited as long as the configuration lets it."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of one image. ``image``: its lazy form, ``digest``: of its manifest; ``bytes``: of blobs copied; ``error``: None
    if all went well."""

    image: str
    digest: str | None = None
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None


def convert(
    *images: Annotated[str, Parameter(name="IMAGE", help="Image names: HOST/REPOSITORY[:TAG].")],
    form: Annotated[Form, Parameter(name="--format", help="estargz (a copy) or soci (an index).")] = "estargz",
    to: Annotated[
        str | None,
        Parameter(
            name="--to",
            help="Copy the result to an OCI layout (a directory) or a registry (http[s]://HOST[/REPOSITORY]).",
        ),
    ] = None,
    server: Server = None,
    ca: Ca = None,
    json: Json = False,
    setup: Setup = NO_FLAGS,
) -> int:
    """Have lazy forms of images made, wait for them, and copy them elsewhere if that is asked for.

    A running instance makes and keeps them, as it would for a client that asks for TAG-esgz or TAG-soci; if none listens where the
    configuration says, one runs for as long as this takes. Where `--to` wants a login, docker's configuration
    is read.

    For example:

    - `registry-proxy lazy convert registry.example/analysis/base:2.1`
    - `registry-proxy lazy convert --format soci --to https://registry.example registry.example/analysis/base:2.1`
    """
    if not images:
        raise ConfigInvalid("lazy convert: name at least one image")
    config = setup.load()
    originals = [image_name(text) for text in images]
    wanted = [replace(name, reference=_suffixed(config, form, name)) for name in originals]
    targets = _targets(to, wanted)
    platforms = [Wanted.parse(each) for each in config.lazy.platforms] or [Wanted.here()]

    def work(instance: Instance) -> list[Converted]:
        instance.timeout = max(instance.timeout, config.lazy.wait + _BEYOND_WAIT)
        with Bars() as bars:
            return [
                _converted(Conversion(instance, name, lazy, form, platforms, bars), instance, lazy, target, bars)
                for name, lazy, target in zip(originals, wanted, targets, strict=True)
            ]

    found = asyncio.run(through_instance(config, server, work, ca))
    if json:
        print_json({"images": [asdict(one) for one in found]})
    else:
        for one in found:
            copied = f", {size_text(one.bytes)} copied," if to is not None else ""
            print_outcome(one.image, f"{one.digest}{copied}", one.seconds, one.error)
    return 1 if any(one.error for one in found) else 0


def status(*, server: Server = None, ca: Ca = None, json: Json = False, setup: Setup = NO_FLAGS) -> None:
    """Show the conversions that a running instance has in hand, and the last that are over."""
    lazy = lazy_stats(Instance(server_url(server, setup.load()), timeout=10.0, ca=ca))
    if json:
        print_json(lazy)
        return
    kept = f"{lazy['layers']} layers made, {size_text(lazy['bytes'])} of {size_text(lazy['limit'])}"
    rows = [(job["id"], job["state"], _share(job), size_text(job["size_bytes"]), job["image"], job["error"])
            for job in lazy["jobs"]]  # fmt: skip
    if rows:
        print_table(kept, ("job", "state", "done", "layer", "image", "said"), rows)
    else:
        print(f"{kept}; nothing in hand")


def cancel(
    job: Annotated[str, Parameter(name="JOB", help="The job's name, as `lazy status` shows it.")],
    /,
    *,
    setup: Setup = NO_FLAGS,
) -> None:
    """Cancel a conversion: by removing its file from the store of the configuration, which only the store's owner can do."""
    from registry_proxy.lazy.work.queue import job_file

    jobs = setup.load().store.path / "lazy" / "jobs"
    file = job_file(jobs, job)
    if file.parent != jobs or not file.is_file():
        raise ConfigInvalid(f"{job[:160]}: no such job is in hand in {jobs}: lazy status shows them")
    file.unlink()


def _converted(
    conversion: Conversion, instance: Instance, wanted: ImageName, target: Target | None, bars: Bars
) -> Converted:
    began = time.monotonic()
    digest, copied, error = None, 0, None
    try:
        digest = str(Digest.of(conversion.manifest()))
        if target is not None:
            copied = copy_image(instance, wanted, target, bars)
    except RegistryProxyError as trouble:
        error = str(trouble)
    return Converted(str(wanted), digest, copied, time.monotonic() - began, error)


def _share(job: dict[str, Any]) -> str:
    return f"{100 * job['taken_bytes'] // max(job['size_bytes'], 1)} %" if job["state"] in IN_HAND else ""


def _suffixed(config: Config, form: Form, name: ImageName) -> Tag:
    if isinstance(name.reference, Digest):
        raise ConfigInvalid(f"{name}: name the image by its tag: its lazy form is served under that tag with a suffix")
    suffix = config.lazy.soci_suffix if form == "soci" else config.lazy.estargz_suffix
    return Tag(f"{name.reference}{suffix}")


# --- where copies go -------------------------------------------------------------------------------------------------------


def _targets(to: str | None, wanted: Sequence[ImageName]) -> Sequence[Target | None]:
    """The target of each image; raises ConfigInvalid, CopyFailed."""
    if to is None:
        return [None] * len(wanted)
    if "://" in to and urlsplit(to).scheme not in ("http", "https"):
        raise ConfigInvalid("--to: a directory, or http[s]://HOST[/REPOSITORY]")
    if "://" not in to:
        _check_distinct([str(name.reference) for name in wanted])
        return [Layout(Path(to))] * len(wanted)
    from registry_proxy.cli.pushing import PushedRepository

    try:
        parts = urlsplit(check_registry_url(to))
        path = parts.path.strip("/")
        repositories = [oci_names.repository(path) if path else name.repository for name in wanted]
    except (ValueError, NameInvalid) as error:
        raise ConfigInvalid(f"--to: {error}") from None
    _check_distinct([f"{place}:{name.reference}" for place, name in zip(repositories, wanted, strict=True)])
    credential = asyncio.run(_credential(parts.netloc))
    return [PushedRepository(f"{parts.scheme}://{parts.netloc}", place, credential) for place in repositories]


def _check_distinct(places: Sequence[str]) -> None:
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ConfigInvalid(f"--to: two of these images would both be {twice} there")


async def _credential(host: str) -> "Credential | None":
    """What docker's configuration has for a registry."""
    from registry_proxy.net.accounts import load_credential

    directory = os.environ.get("DOCKER_CONFIG")
    file = (Path(directory) if directory else Path.home() / ".docker") / "config.json"
    return await load_credential(Account(docker_config=file), host) if await asyncio.to_thread(file.is_file) else None
