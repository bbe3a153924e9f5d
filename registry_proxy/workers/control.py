"""What the supervisor and its processes say to each other, over a socket pair that each process inherits."""

from pathlib import Path
from typing import Final, Literal

import msgspec

from registry_proxy import errors
from registry_proxy.config import Config
from registry_proxy.errors import RegistryProxyError
from registry_proxy.telemetry.sums import Family

Role = Literal["fetcher", "server"]


class Note(msgspec.Struct, frozen=True, tag=True):
    """Anything that is said."""


class Doors(msgspec.Struct, frozen=True):
    """A bound address, as ``web.server.Place`` has it; ``descriptors``: of its sockets, in the process that is told."""

    key: str
    text: str
    upstream: str | None
    descriptors: tuple[int, ...]


# --- the supervisor ----------------------------------------------------------------------------------------------------


class Begin(Note, frozen=True, tag=True):
    """The first note: what the process is. ``line``: where the fetcher listens; ``listening``: the descriptor of that socket.

    ``identity``: of the instance, in ``Via``.
    """

    role: Role
    name: str
    config: Config
    identity: str
    line: str
    listening: int | None
    doors: tuple[Doors, ...]


class Apply(Note, frozen=True, tag=True):
    """The configuration was read again."""

    config: Config


class Stop(Note, frozen=True, tag=True):
    """Finish what is under way, and end."""


class Report(Note, frozen=True, tag=True):
    """Say what has been counted. Answer: Figures."""


class Process(msgspec.Struct, frozen=True):
    """One of the processes, for ``/stats``. ``restarts``: how often it was started again; ``since``: seconds it has been running."""

    name: str
    pid: int
    restarts: int
    since: float


class Total(Note, frozen=True, tag=True):
    """The figures of the whole instance, as they were asked for."""

    number: int
    figures: tuple[Family, ...]
    processes: tuple[Process, ...]


# --- a process ---------------------------------------------------------------------------------------------------------


class Ready(Note, frozen=True, tag=True):
    """It does its work from now on. ``urls``: where it listens."""

    urls: tuple[str, ...]


class Refused(Note, frozen=True, tag=True):
    """It cannot begin: the name of an error's class, and its text."""

    kind: str
    text: str


class Figures(Note, frozen=True, tag=True):
    """What it has counted."""

    figures: tuple[Family, ...]


class AskTotal(Note, frozen=True, tag=True):
    """The figures of the whole instance are wanted. Answer: Total, with this number."""

    number: int


Order = Begin | Apply | Stop | Report | Total
Reply = Ready | Refused | Figures | AskTotal


def _plain(value: object) -> object:
    match value:
        case Path():
            return str(value)
        case int():  # a Size
            return int(value)
        case float():  # Seconds
            return float(value)
    raise TypeError(f"{type(value).__name__} in a note")


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order, dec_hook=lambda kind, value: kind(value))
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def pack(note: Note) -> bytes:
    """A note as bytes."""
    return _encoder.encode(note)


def order(data: bytes) -> Order:
    """What the supervisor says."""
    return _orders.decode(data)


def reply(data: bytes) -> Reply:
    """What a process says."""
    return _replies.decode(data)


def refusal(refused: Refused) -> RegistryProxyError:
    """The error that kept a process from beginning."""
    kind = getattr(errors, refused.kind, None)
    if isinstance(kind, type) and issubclass(kind, RegistryProxyError):
        error = kind.__new__(kind)
        Exception.__init__(error, refused.text)
        return error
    return RegistryProxyError(refused.text)
