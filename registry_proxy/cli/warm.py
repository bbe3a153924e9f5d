"""``registry-proxy warm``: pull images into the cache before somebody needs them."""

import asyncio
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from registry_proxy.cli.http import Instance, InstanceUnreachable
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, image_name, server_url
from registry_proxy.cli.output import counted, print_json, print_outcome
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import Warmed, Watcher, warm_image
from registry_proxy.config import Config
from registry_proxy.config.units import Seconds, size_text
from registry_proxy.errors import ConfigInvalid

T = TypeVar("T")


def warm(
    *images: Annotated[
        str, Parameter(name="IMAGE", help="Image names as for podman or docker: HOST/REPOSITORY[:TAG][@DIGEST].")
    ],
    platform: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            show_default=False,
            help="OS/ARCHITECTURE[/VARIANT], may be repeated, or all; default: this machine's.",
        ),
    ] = (),
    server: Server = None,
    ca: Ca = None,
    json: Json = False,
    setup: Setup = NO_FLAGS,
) -> int:
    """Pull manifests and layers of images into the cache.

    A running instance does it; if none listens where the configuration says, one runs for as long as this takes.

    For example:

    - `registry-proxy warm docker.io/library/alpine:3.20`
    - `registry-proxy warm --platform linux/amd64 --platform linux/arm64 quay.io/centos/centos:stream9`
    - `registry-proxy warm --server https://cache.example:5000 --ca ca.pem --json ghcr.io/example/analysis:latest`
    """
    if not images:
        raise ConfigInvalid("warm: name at least one image")
    config = setup.load()
    names = [image_name(text) for text in images]
    wanted = [Wanted.parse(text) for text in platform] or [Wanted.here()]

    def work(instance: Instance) -> list[Warmed]:
        with Bars() as bars:
            return [warm_image(instance, name, wanted, bars) for name in names]

    found = asyncio.run(through_instance(config, server, work, ca))
    if json:
        print_json({"images": [asdict(one) for one in found]})
    else:
        for one in found:
            what = f"{counted(one.manifests, 'manifest')}, {counted(one.blobs, 'blob')}, {size_text(one.bytes)}"
            print_outcome(one.image, what, one.seconds, one.error)
    return 1 if any(one.error for one in found) else 0


async def through_instance(
    config: Config, server: str | None, work: Callable[[Instance], T], ca: Path | None = None
) -> T:
    """Run blocking work against the instance at ``server``, else the configured one, else one of our own; what it returns.

    ``ca``: who signs its certificate. Raises InstanceUnreachable if ``server`` is given and nobody answers there, or if somebody answers
    whose certificate is not to be trusted.
    """
    instance = Instance(server_url(server, config), ca=ca)
    try:
        await asyncio.to_thread(instance.check_alive)
    except InstanceUnreachable as error:
        if server is not None or isinstance(error.__cause__, ssl.SSLError):
            raise
        return await _through_own(config, work)
    return await _stoppable(instance, work)


async def _through_own(config: Config, work: Callable[[Instance], T]) -> T:
    """Run the work against an instance in this process, on a free loopback port, with the same store and upstreams."""
    from registry_proxy.app import serve

    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()
    running = asyncio.create_task(serve(alone(config), ready=lambda urls: ready.set_result(urls[0])))
    try:
        await _first(running, ready)
        if not ready.done():
            running.result()  # raises why it did not start
            raise KeyboardInterrupt
        interrupted = _interruption(loop)
        worker = asyncio.create_task(_stoppable(Instance(ready.result()), work))
        try:
            await _first(running, worker, interrupted)
            if worker.done():
                return worker.result()
            if running.done():
                running.result()
            raise KeyboardInterrupt
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _first(*waited: asyncio.Future[Any]) -> None:
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)


def _interruption(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """Done at Ctrl-C or SIGTERM, which serve() took over: here the pulls end first, then the instance."""
    interrupted: asyncio.Future[None] = loop.create_future()

    def interrupt() -> None:
        if not interrupted.done():
            interrupted.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return interrupted


async def _stoppable(instance: Instance, work: Callable[[Instance], T]) -> T:
    """Run the work in a thread; if we are cancelled, its exchanges end and so does the thread."""
    try:
        return await asyncio.to_thread(work, instance)
    finally:
        instance.stop()


def alone(config: Config) -> Config:
    """The configuration with one listener only, on a free loopback port, and no log line for what goes well."""
    unheard = {host: msgspec.structs.replace(upstream, listen=()) for host, upstream in config.upstreams.items()}
    listener = msgspec.structs.replace(config.server, listen=("127.0.0.1:0",), drain=Seconds(0), tls=None)
    log = msgspec.structs.replace(config.log, level="warning")
    return msgspec.structs.replace(config, upstreams=unheard, server=listener, log=log)


class Bars(Watcher):
    """A progress bar per image on standard error, where that is a terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            _Speed(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def image(self, name: str) -> None:
        self._tasks[name] = self._progress.add_task(name, total=None)

    def expect(self, name: str, count: int) -> None:
        self._progress.update(self._tasks[name], total=count)

    def advance(self, name: str, count: int) -> None:
        self._progress.advance(self._tasks[name], count)


class _Speed(ProgressColumn):
    """Bytes per second, in the units of everything else."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{size_text(speed)}/s", style="progress.data.speed")
