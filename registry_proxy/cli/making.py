"""``registry-proxy lazy convert|status|cancel``: having lazy forms of images made, and looking at how far that is."""

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from cyclopts import Parameter

from registry_proxy.cli.copying import Layout, RemoteRegistry, Target, copy_image
from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, image_name, server_url
from registry_proxy.cli.output import print_json, print_table
from registry_proxy.cli.warm import Bars, through_instance
from registry_proxy.cli.warming import Watcher, image_path
from registry_proxy.config import Account, Config
from registry_proxy.config.rules import check_registry_url
from registry_proxy.config.units import size_text
from registry_proxy.errors import ConfigInvalid, RegistryProxyError
from registry_proxy.net.accounts import Credential, load_credential
from registry_proxy.oci.content import ACCEPT, MAX_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import ImageName, Tag

Form = Literal["estargz", "soci"]

_LIMIT: Final = 16 << 20
_LOOK: Final = 0.5
_PAUSE: Final = 1.0
_UNREADY: Final = (404, 503)
_IN_HAND: Final = ("waiting", "running")


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of one image. ``digest``: of its lazy form; ``bytes``: of blobs copied; ``error``: None if all went well."""

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
    configuration says, one runs for as long as this takes. For a registry that wants a login, docker's configuration is read.

    For example:

    - `registry-proxy lazy convert registry.example/analysis/base:2.1`
    - `registry-proxy lazy convert --format soci --to https://registry.example registry.example/analysis/base:2.1`
    """
    if not images:
        raise ConfigInvalid("lazy convert: name at least one image")
    config = setup.load()
    names = [image_name(text) for text in images]
    asked = [replace(name, reference=_suffixed(config, form, name)) for name in names]
    credential = asyncio.run(_credential(to))

    def work(instance: Instance) -> list[Converted]:
        with Bars() as bars:
            return [
                _converted(instance, name, wanted, _target(to, name, credential), bars)
                for name, wanted in zip(names, asked, strict=True)
            ]

    found = asyncio.run(through_instance(config, server, work, ca))
    if json:
        print_json({"images": [asdict(one) for one in found]})
    else:
        for one in found:
            copied = f", {size_text(one.bytes)} copied" if to else ""
            print(f"{one.image}: {one.error or one.digest} ({one.seconds:.1f} s{copied})")
    return 1 if any(one.error for one in found) else 0


def status(*, server: Server = None, ca: Ca = None, json: Json = False, setup: Setup = NO_FLAGS) -> None:
    """Show the conversions that a running instance has in hand, and the last that are over."""
    lazy = _lazy_stats(Instance(server_url(server, setup.load()), timeout=10.0, ca=ca))
    if json:
        print_json(lazy)
        return
    kept = f"{lazy['layers']} layers made, {size_text(lazy['bytes'])} of {size_text(lazy['limit'])}"
    rows = [(job["id"], job["state"], _share(job), job["image"], job["error"]) for job in lazy["jobs"]]
    print_table(kept, ("job", "state", "done", "image", "said"), rows)


def cancel(
    job: Annotated[str, Parameter(name="JOB", help="The job's name, as `lazy status` shows it.")],
    /,
    *,
    setup: Setup = NO_FLAGS,
) -> None:
    """Cancel a conversion: by removing its file from the store of the configuration, which only the store's owner can do."""
    from registry_proxy.lazy.work.queue import job_file

    file = job_file(setup.load().store.path / "lazy" / "jobs", job)
    if file.parent.name != "jobs" or "/" in job or not file.is_file():
        raise ConfigInvalid(f"{job[:160]}: no such job is in hand in {file.parent}")
    file.unlink()


def _converted(instance: Instance, name: ImageName, wanted: ImageName, to: Target | None, bars: Watcher) -> Converted:
    began = time.monotonic()
    bars.image(str(wanted))
    digest, copied, error = None, 0, None
    try:
        digest = str(Digest.of(_made(instance, name, wanted, bars)))
        if to is not None:
            copied = copy_image(instance, wanted, to, bars)
    except RegistryProxyError as trouble:
        error = str(trouble)
    return Converted(str(wanted), digest, copied, time.monotonic() - began, error)


def _made(instance: Instance, name: ImageName, wanted: ImageName, bars: Watcher) -> bytes:
    """The manifest of the lazy form, as soon as there is one; raises InstanceRefused if there will be none."""
    progress = _Progress(instance, wanted, bars)
    with ThreadPoolExecutor(1) as pool:
        while True:
            asking = pool.submit(_manifest, instance, wanted)
            while True:
                try:
                    body = asking.result(_LOOK)
                    break
                except NotYet:
                    progress.show()
                except InstanceRefused as error:
                    if error.status not in _UNREADY or not progress.show():
                        raise
                    body = None
                    break
            if body is not None and (body != _manifest(instance, name) or not progress.show()):
                return body
            time.sleep(_PAUSE)


def _manifest(instance: Instance, image: ImageName) -> bytes:
    path = image_path(image, "manifests", str(image.reference))
    return instance.get(path, {"Accept": ACCEPT}, MAX_MANIFEST)


class _Progress:
    """Shows how much of the image's layers has been read."""

    def __init__(self, instance: Instance, image: ImageName, bars: Watcher) -> None:
        self._instance = instance
        self._image = image
        self._bars = bars
        self._seen: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def show(self) -> bool:
        """Look, show what is new; True if there is something to wait for."""
        mine = f"{self._image.host}/{self._image.repository}"
        jobs: Sequence[dict[str, Any]] = [job for job in _lazy_stats(self._instance)["jobs"] if job["image"] == mine]
        for job in jobs:
            self._sizes[job["id"]] = job["size_bytes"]
            taken = job["size_bytes"] if job["state"] == "done" else job["taken_bytes"]
            self._bars.advance(str(self._image), taken - self._seen.get(job["id"], 0))
            self._seen[job["id"]] = taken
        self._bars.expect(str(self._image), sum(self._sizes.values()))
        return any(job["state"] in _IN_HAND for job in jobs)


def _lazy_stats(instance: Instance) -> dict[str, Any]:
    body = instance.get("/stats", {}, _LIMIT)
    try:
        return msgspec.json.decode(body, type=dict[str, Any])["lazy"]  # type: ignore[no-any-return]
    except (msgspec.DecodeError, KeyError) as error:
        raise InstanceRefused(f"{instance.url}/stats: not an instance of this program: {error}") from error


def _share(job: dict[str, Any]) -> str:
    return f"{100 * job['taken_bytes'] // max(job['size_bytes'], 1)} %" if job["state"] in _IN_HAND else ""


def _suffixed(config: Config, form: Form, name: ImageName) -> Tag:
    if isinstance(name.reference, Digest):
        raise ConfigInvalid(f"{name}: name the image by its tag: the lazy form is served under the tag with a suffix")
    suffix = config.lazy.soci_suffix if form == "soci" else config.lazy.estargz_suffix
    return Tag(f"{name.reference}{suffix}")


def _is_registry(to: str) -> bool:
    return urlsplit(to).scheme in ("http", "https")


def _target(to: str | None, name: ImageName, credential: Credential | None) -> Target | None:
    if to is None:
        return None
    if not _is_registry(to):
        return Layout(Path(to))
    parts = urlsplit(_checked(to))
    registry = RemoteRegistry(
        f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or str(name.repository), credential
    )
    registry.log_in()
    return registry


def _checked(url: str) -> str:
    try:
        return check_registry_url(url)
    except ValueError as error:
        raise ConfigInvalid(f"--to: {error}") from None


async def _credential(to: str | None) -> Credential | None:
    """What docker's configuration has for the registry to push to."""
    if to is None or not _is_registry(to):
        return None
    directory = os.environ.get("DOCKER_CONFIG")
    file = (Path(directory) if directory else Path.home() / ".docker") / "config.json"
    if not await asyncio.to_thread(file.is_file):
        return None
    return await load_credential(Account(docker_config=file), urlsplit(_checked(to)).netloc)
