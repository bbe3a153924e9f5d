"""What is not the registry API: health, metrics, figures, and a line for a person who opens the address in a browser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from registry_proxy import __version__
from registry_proxy.errors import NoSuchEndpoint
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web.exchange import Exchange

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_NEVER_KEPT = ("Cache-Control", "no-store")
_HELLO = f"""registry-proxy {__version__}: a pull-through lazy proxy for OCI registries.

The registry API is at /v2/; images are named /v2/<registry>/<repository>/… or with ?ns=<registry>.
Health: /healthz, /readyz. Figures: /metrics (Prometheus), /stats (JSON).
"""


@dataclass(frozen=True, slots=True)
class Health:
    """``ready``: None, or for a person why not; ``stats``: figures that can be written as JSON."""

    metrics: Metrics
    stats: Callable[[], Mapping[str, object]]
    ready: Callable[[], str | None]

    def answer(self, exchange: Exchange, path: str) -> web.Response:
        """The answer to one of these paths; raises NoSuchEndpoint."""
        match path:
            case "/":
                return exchange.answer(200, _TEXT, body=_HELLO.encode())
            case "/healthz":
                return exchange.answer(200, _TEXT, _NEVER_KEPT, body=b"ok\n")
            case "/readyz":
                reason = self.ready()
                body = f"not ready: {reason}\n" if reason else "ready\n"
                return exchange.answer(503 if reason else 200, _TEXT, _NEVER_KEPT, body=body.encode())
            case "/metrics":
                kind = ("Content-Type", CONTENT_TYPE_LATEST)
                return exchange.answer(200, kind, _NEVER_KEPT, body=self.metrics.exposition())
            case "/stats":
                body_ = msgspec.json.encode(self.stats())
                return exchange.answer(200, ("Content-Type", "application/json"), _NEVER_KEPT, body=body_)
        raise NoSuchEndpoint(f"nothing is at {path[:160]!r}")
