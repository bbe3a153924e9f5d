"""Structured logs on standard error: one JSON object per line, or coloured text on a terminal.

The chain of processors is short: structlog's usual one costs about 36 µs a line, this one about 9. The line that is written for
every request does not even go through it (``request_line``). A filtered line costs next to nothing.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

import msgspec
import structlog

from registry_proxy import config
from registry_proxy.oci.foreign import printable

REQUEST: Final[ContextVar[str | None]] = ContextVar("request", default=None)
"""The id of the request being answered: on every line that is logged on its behalf, flights it started included."""

_SECRETS: Final = frozenset({"authorization", "password", "token", "secret", "credentials", "cookie"})
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

Event = MutableMapping[str, Any]

_line: Callable[[dict[str, object]], None] | None = None
_level: int = logging.INFO
_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure(settings: config.Logging, stream: BinaryIO | None = None, process: str | None = None) -> None:
    """Send every event of at least the configured level to ``stream`` (default: standard error).

    ``process``: on every line, where several processes are one instance. Warnings of libraries that use the standard ``logging`` come out the same way.
    """
    out = stream or sys.stderr.buffer
    text = settings.format == "text" or (settings.format == "auto" and out.isatty())
    structlog.configure(
        processors=[
            *([_of_process(process)] if process else []),
            _request,
            _no_secrets,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(text=text, colors=out.isatty()),
        ],
        wrapper_class=_Logger,
        logger_factory=structlog.BytesLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    global _line
    _line = None if text else _write_lines_to(out, process)
    set_level(settings.level)
    logging.basicConfig(handlers=[_Forwarded()], level=logging.WARNING, force=True)


def set_level(level: str) -> None:
    """Send events of at least this level from now on, also through the loggers in use."""
    global _level
    _level = _LEVELS[level]
    for name, method in vars(structlog.make_filtering_bound_logger(_LEVELS[level])).items():
        if not name.startswith("__"):
            setattr(_Logger, name, method)


def request_line() -> Callable[[dict[str, object]], None] | None:
    """What writes the one line of a request, or None where the usual loggers have to: on a terminal, and under tests.

    The line is what they would write, for a third of what they cost; levels are the caller's business (``says``).
    """
    return _line


def says(level: int) -> bool:
    """True if events of this level are written."""
    return level >= _level


def _write_lines_to(out: BinaryIO, process: str | None) -> Callable[[dict[str, object]], None]:
    encode = msgspec.json.Encoder(enc_hook=str).encode
    stamp = _Stamp()
    held: list[bytes] = []

    def flush() -> None:
        out.write(b"".join(held))
        out.flush()
        held.clear()

    def write(event: dict[str, object]) -> None:
        if process:
            event["process"] = process
        event["timestamp"] = stamp()
        if not held:  # what is answered in one turn of the loop is written together
            asyncio.get_running_loop().call_soon(flush)
        held.append(encode(event) + b"\n")

    return write


class _Stamp:
    """The time as structlog writes it; what changes once a second is kept."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        now = time.time_ns()
        second, rest = divmod(now, 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._text}.{rest // 1000:06d}Z"


class _Logger(structlog.BoundLoggerBase):
    """The class of all loggers. They are cached on first use and keep their class, so another level means other methods of it."""


def _renderers(*, text: bool, colors: bool) -> list[structlog.typing.Processor]:
    if text:
        plain = structlog.dev.plain_traceback  # rich's shows local variables, and passwords among them
        console = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False, exception_formatter=plain)
        return [lambda logger, name, event: console(logger, name, event).encode(errors="backslashreplace")]
    return [structlog.processors.format_exc_info, _json]


def _json(_logger: object, _name: str, event: Event) -> bytes:
    try:
        return _encode(event)
    except UnicodeEncodeError:  # something that a stranger sent as text and that is none
        return _encode(
            {key: printable(value if isinstance(value, str) else repr(value)) for key, value in event.items()}
        )


def _of_process(name: str) -> structlog.typing.Processor:
    """Adds the name of the process."""

    def add(_logger: object, _name: str, event: Event) -> Event:
        event["process"] = name
        return event

    return add


def _request(_logger: object, _name: str, event: Event) -> Event:
    """Add the id of the request being answered."""
    request = REQUEST.get()
    if request is not None:
        event.setdefault("request", request)
    return event


def _no_secrets(_logger: object, _name: str, event: Event) -> Event:
    """Blank what should not have come here: the last line of defence, callers are the first."""
    if not _SECRETS.isdisjoint(event):
        event.update(dict.fromkeys(_SECRETS.intersection(event), "***"))
    return event


class _Forwarded(logging.Handler):
    """Events of the standard ``logging`` become structured ones."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno, "library.said", logger=record.name, text=record.getMessage(), exc_info=record.exc_info)
