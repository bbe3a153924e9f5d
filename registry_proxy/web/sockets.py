"""Listening sockets: TCP and Unix, bound, with a limit on whom they let in."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from registry_proxy.config.address import Address
from registry_proxy.web.limits import Limits

_MODE: Final = 0o660
"""Of a Unix socket: its owner and its group may connect."""

_ANSWERS: Final = 1.0
"""Seconds in which somebody who listens on a Unix socket takes a connection."""

_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Door(socket.socket):
    """A listening socket that closes at once whom ``limits`` has no room for, before anything is spent on them, TLS included.

    It counts where asyncio accepts and closes sockets, because a connection's protocol hears of it after the TLS handshake only.
    ``shared``: other processes accept here as well. Then it gives one connection at a time, or asyncio would take all that wait
    at once, and the other processes would have none of a burst.
    """

    limits: Limits
    shared: bool = False
    _took: bool = False

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection; raises ConnectionAbortedError if it was one too many, which asyncio takes as nobody being there."""
        if self.shared:
            self._took = not self._took
            if not self._took:
                raise BlockingIOError
        try:
            connection, address = super().accept()
        except OSError:
            self._took = False
            raise
        remote = address[0] if self.family != socket.AF_UNIX else None
        if not self.limits.enter(remote):
            connection.close()
            raise ConnectionAbortedError("too many connections")
        guest = _Guest(connection.family, connection.type, connection.proto, fileno=connection.detach())
        guest.limits, guest.remote = self.limits, remote
        return guest, address


class _Guest(socket.socket):
    """A connection that is counted until it is closed."""

    limits: Limits | None = None
    remote: str | None = None

    def close(self) -> None:
        """Close it."""
        super().close()
        limits, self.limits = self.limits, None
        if limits is not None:
            limits.leave(self.remote)


async def bound(at: Address) -> list[Door]:
    """Sockets bound to an address; raises OSError. Every interface is one socket for IPv4 and one for IPv6."""
    return await _tcp(at) if at.path is None else [await asyncio.to_thread(_unix, at.path)]


def inherited(descriptors: Sequence[int]) -> list[Door]:
    """Sockets that another process has bound, for several processes to accept from."""
    doors = [Door(fileno=descriptor) for descriptor in descriptors]
    for door in doors:
        door.set_inheritable(False)
        door.shared = True
    return doors


def unlink(path: str) -> None:
    """Remove a Unix socket that is no longer listened on."""
    with contextlib.suppress(OSError):
        Path(path).unlink()


async def _tcp(at: Address) -> list[Door]:
    found = await asyncio.get_running_loop().getaddrinfo(
        at.host or None, at.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    doors: list[Door] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                doors.append(_bound_tcp(family, kind, protocol, address))
            except OSError as error:
                if at.host or family != socket.AF_INET6 or error.errno not in _NO_IPV6:
                    raise
    except OSError:
        for door in doors:
            door.close()
        raise
    return doors


def _bound_tcp(
    family: int, kind: int, protocol: int, address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
) -> Door:
    door = Door(family, kind, protocol)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        door.bind(address)
    except OSError:
        door.close()
        raise
    return door


def _unix(path: str) -> Door:
    if os.path.lexists(path):
        _remove_stale(path)
    door = Door(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.bind(path)
        Path(path).chmod(_MODE)  # before it listens: until then nobody can connect
    except OSError:
        door.close()
        raise
    return door


def _remove_stale(path: str) -> None:
    """Remove the socket that a process which was killed has left; raises OSError if it is in use, or no socket."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "a file that is no socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_ANSWERS)
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except TimeoutError:
            pass
    raise OSError(errno.EADDRINUSE, "another process listens there")
