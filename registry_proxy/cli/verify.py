"""``registry-proxy verify``: hash everything that is stored, drop what is wrong."""

import asyncio
import sys
import time
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from registry_proxy.cli.options import NO_FLAGS, Json, Setup
from registry_proxy.cli.output import counted, print_json
from registry_proxy.config import Logging
from registry_proxy.config.units import size_text
from registry_proxy.errors import StoreUnusable

if TYPE_CHECKING:  # the store's modules are imported when the verb runs
    from registry_proxy.tiers import scrub


def verify(*, json: Json = False, setup: Setup = NO_FLAGS) -> None:
    """Hash every stored chunk and drop what is wrong; it is fetched again when somebody asks for it.

    Works beside a running instance. Exit code 0 also if something was dropped (the store is right then), 1 if the store
    cannot be read.

    For example:

    - `registry-proxy verify`
    - `registry-proxy verify --store /var/cache/registry-proxy --json`
    """
    from registry_proxy.telemetry import logs

    root = setup.load().store.path
    chunk_size = chunk_size_of(root)
    logs.configure(Logging(level="error"))
    begin = time.monotonic()
    done = asyncio.run(_scrub(root, chunk_size))
    seconds = time.monotonic() - begin
    if json:
        print_json({"store": str(root), **asdict(done), "seconds": round(seconds, 3)})
    else:
        print(f"{root}: {counted(done.chunks, 'chunk')}, {size_text(done.bytes)} in {seconds:.1f} s")
        print(f"dropped: {counted(done.wrong, 'wrong chunk')}, {counted(done.leftovers, 'leftover')}")


def chunk_size_of(root: Path) -> int:
    """What the store's format file says, in bytes; raises StoreUnusable unless ``root`` is a store that this program reads.

    Looked at first, because a scrub removes whatever a store does not have.
    """
    from registry_proxy.tiers.directory import VERSION, Format
    from registry_proxy.tiers.layout import Layout

    try:
        found = msgspec.json.decode(Layout(root).format.read_bytes(), type=Format)
    except FileNotFoundError:
        raise StoreUnusable(f"there is no store at {root}: name it with --store DIR or --config FILE") from None
    except PermissionError:
        raise StoreUnusable(f"store {root} cannot be read by this user: run as the user who owns it") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreUnusable(f"store {root}: its format file cannot be read ({error})") from error
    if found.version != VERSION:
        raise StoreUnusable(f"store {root} has format version {found.version}, this program reads {VERSION}")
    return found.chunk_size


async def _scrub(root: Path, chunk_size: int) -> "scrub.Progress":
    from registry_proxy.tiers import scrub

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    done = scrub.Progress()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("")
        async with aclosing(scrub.scrub(root, chunk_size)) as steps:
            async for done in steps:
                text = f"{done.chunks} chunks, {size_text(done.bytes)}, {done.wrong} wrong"
                bar.update(task, description=text)
    return done
