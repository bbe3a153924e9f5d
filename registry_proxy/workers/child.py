"""The entry of every process but the supervisor: ``python -m registry_proxy.workers.child DESCRIPTOR``."""

import asyncio
import itertools
import signal
import socket
import sys
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from registry_proxy.errors import NotSoon, RegistryProxyError
from registry_proxy.telemetry import logs
from registry_proxy.telemetry.sums import snapshot
from registry_proxy.web.limits import calm_collector, raise_open_files
from registry_proxy.workers import control
from registry_proxy.workers.control import Apply, AskTotal, Begin, Figures, Ready, Refused, Report, Stop, Total
from registry_proxy.workers.roles import Role, fetching, serving
from registry_proxy.workers.wire import Wire, WireLost

_log = structlog.get_logger()

_TOTAL_IN: Final = 3.0
"""Seconds in which the supervisor has the figures of all processes."""


class Child:
    """This process, and its wire to the supervisor. ``stopping``: set when it is told to end, or the supervisor is gone."""

    def __init__(self, wire: Wire) -> None:
        self.stopping = asyncio.Event()
        self._wire = wire
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Total]] = {}

    async def total(self) -> Total:
        """The figures of the whole instance; raises NotSoon."""
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._wire.send(control.pack(AskTotal(number)))
        try:
            async with asyncio.timeout(_TOTAL_IN):
                return await self._asked[number]
        except TimeoutError:
            raise NotSoon("the supervisor does not answer", retry_after=1) from None
        finally:
            del self._asked[number]

    async def live(self) -> int:
        """Begin, work until told to stop, end. The exit code."""
        begin = control.order(await self._wire.receive())
        assert isinstance(begin, Begin)  # noqa: S101
        logs.configure(begin.config.log, process=begin.name)
        raise_open_files()
        calm_collector()
        if (
            begin.role == "server"
        ):  # a service manager may stop all processes at once, and the fetcher is to be the last
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.stopping.set)
        work: AbstractAsyncContextManager[Role] = fetching(begin) if begin.role == "fetcher" else serving(begin, self)
        try:
            async with work as role:
                self._wire.send(control.pack(Ready(tuple(role.urls))))
                obeying = asyncio.create_task(self._obey(role), name="supervisor's orders")
                obeying.add_done_callback(lambda _: self.stopping.set())
                await self.stopping.wait()
            self._report(role)
            obeying.cancel()
            await asyncio.gather(obeying, return_exceptions=True)
        except RegistryProxyError as error:
            self._wire.send(control.pack(Refused(type(error).__name__, str(error))))
            return 1
        return 0

    async def _obey(self, role: Role) -> None:
        try:
            while True:
                match control.order(await self._wire.receive()):
                    case Apply(config):
                        await role.apply(config)
                    case Report():
                        self._report(role)
                    case Total(number) as total:
                        waiting = self._asked.get(number)
                        if waiting is not None and not waiting.done():
                            waiting.set_result(total)
                    case Stop():
                        self.stopping.set()
        except WireLost:
            pass
        except Exception:  # a mistake of ours: the process ends, and another one takes its place
            _log.exception("orders.broke")
            raise

    def _report(self, role: Role) -> None:
        self._wire.send(control.pack(Figures(snapshot(role.metrics.registry))))


async def _live(descriptor: int) -> int:
    pair = socket.socket(fileno=descriptor)
    pair.set_inheritable(False)
    _, wire = await asyncio.get_running_loop().create_unix_connection(Wire, sock=pair)
    try:
        return await Child(wire).live()
    except WireLost:
        return 1
    finally:
        await wire.finish()


def main() -> None:
    """Run one process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the supervisor passes on what concerns its processes
    sys.exit(asyncio.run(_live(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
