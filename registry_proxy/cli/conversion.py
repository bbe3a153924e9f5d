"""Having a lazy form of an image made by an instance, and waiting for it with an eye on how far its layers are."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, Literal

from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import NothingForPlatform, Watcher, image_path, manifests_of
from registry_proxy.errors import RegistryProxyError
from registry_proxy.oci.content import ACCEPT, MAX_MANIFEST
from registry_proxy.oci.names import ImageName

Form = Literal["estargz", "soci"]

IN_HAND: Final = ("waiting", "running")
"""States of jobs that are not over."""

_GAVE_UP: Final = ("failed", "cancelled")
_UNREADY: Final = (404, 503)
_LOOK: Final = 0.5
_PAUSE: Final = 1.0


class ConversionFailed(RegistryProxyError):
    """A layer could not be made lazy; the text says which one and why."""


def lazy_stats(instance: Instance) -> dict[str, Any]:
    """What an instance says of its lazy images: ``jobs`` and figures."""
    try:
        return instance.figures()["lazy"]  # type: ignore[no-any-return]
    except KeyError:
        raise InstanceRefused(f"{instance.url}/stats: nothing about lazy images: another version") from None


class Conversion:
    """The making of one lazy image. ``image``: the original, ``wanted``: its lazy form; ``platforms``: those that are made lazy."""

    def __init__(
        self,
        instance: Instance,
        image: ImageName,
        wanted: ImageName,
        form: Form,
        platforms: Sequence[Wanted],
        watcher: Watcher,
    ) -> None:
        self._instance = instance
        self._image = image
        self._wanted = wanted
        self._form = form
        self._platforms = platforms
        self._watcher = watcher
        self._layers: frozenset[str] = frozenset()
        self._taken: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def manifest(self) -> bytes:
        """The manifest of the lazy image, once there is one.

        What is not ready is, by the instance's policy, refused, or answered by the original: that counts once it comes a second time
        with nothing in hand. Raises ConversionFailed and what ``Instance`` raises.
        """
        original = self._instance.get(_path(self._image), {"Accept": ACCEPT}, MAX_MANIFEST)
        self._watcher.image(str(self._wanted))
        self._layers = self._find_layers()
        was_idle = False
        while True:
            answer = self._asked()
            jobs = self._look()
            if isinstance(answer, bytes) and answer != original:
                return answer
            self._check_failures(jobs)
            is_idle = not any(job["state"] in IN_HAND for job in jobs)
            if is_idle and was_idle:
                if isinstance(answer, bytes):
                    return answer  # the upstream itself has both tags for one image
                raise answer
            was_idle = is_idle
            self._instance.pause(_PAUSE)

    def _asked(self) -> bytes | InstanceRefused:
        """What the instance has now, or why it has nothing yet; it may take its time to say so."""
        with ThreadPoolExecutor(1, thread_name_prefix="lazy") as pool:
            asking = pool.submit(self._instance.ask, _path(self._wanted), {"Accept": ACCEPT}, MAX_MANIFEST)
            while not wait([asking], _LOOK).done:
                self._look()
        error = asking.exception()
        if isinstance(error, InstanceRefused) and error.status in _UNREADY:
            return error
        return asking.result()

    def _look(self) -> list[dict[str, Any]]:
        """The jobs of this form in this repository, or on layers that it has in common with others; progress is shown."""
        jobs = [job for job in lazy_stats(self._instance)["jobs"] if self._is_ours(job)]
        for job in jobs:
            taken = job["size_bytes"] if job["state"] == "done" else job["taken_bytes"]
            self._watcher.advance(str(self._wanted), taken - self._taken.get(job["id"], 0))
            self._taken[job["id"]], self._sizes[job["id"]] = taken, job["size_bytes"]
        self._watcher.expect(str(self._wanted), sum(self._sizes.values()))
        return jobs

    def _is_ours(self, job: dict[str, Any]) -> bool:
        repository = f"{self._image.host}/{self._image.repository}"
        return job["id"].startswith(f"{self._form}-") and (job["image"] == repository or job["layer"] in self._layers)

    def _check_failures(self, jobs: Sequence[dict[str, Any]]) -> None:
        for job in jobs:
            if job["layer"] in self._layers and job["state"] in _GAVE_UP:
                raise ConversionFailed(f"layer {job['layer']}: {job['error'] or job['state']}")

    def _find_layers(self) -> frozenset[str]:
        """The layers of the original; none if it is for other platforms than we know of: the instance may know better."""
        try:
            manifests = list(manifests_of(self._instance, self._image, self._platforms))
        except NothingForPlatform:
            return frozenset()
        return frozenset(layer.digest for _, manifest in manifests for layer in manifest.layers)


def _path(image: ImageName) -> str:
    return image_path(image, "manifests", str(image.reference))
