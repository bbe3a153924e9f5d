"""What is not the registry API: health, metrics, figures, and a page for whoever opens the address in a browser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from registry_proxy import __version__
from registry_proxy.errors import NoSuchEndpoint
from registry_proxy.web import page
from registry_proxy.web.answer import Answer
from registry_proxy.web.exchange import Exchange

_TEXT = ("Content-Type", "text/plain; charset=utf-8")
_NEVER_KEPT = ("Cache-Control", "no-store")
_HELLO = f"""registry-proxy {__version__}: a pull-through lazy proxy for OCI registries.

The registry API is at /v2/; images are named /v2/<registry>/<repository>/… or with ?ns=<registry>.
Health: /healthz, /readyz. Figures: /metrics (Prometheus), /stats (JSON).
"""


class Figures(Protocol):
    """What an instance says about itself."""

    async def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""

    async def stats(self) -> Mapping[str, object]:
        """Figures that can be written as JSON."""

    def unready(self) -> str | None:
        """For a person why no requests should be sent here; None: they should."""


@dataclass(frozen=True, slots=True)
class Health:
    """These endpoints."""

    figures: Figures

    async def answer(self, exchange: Exchange, path: str) -> Answer:
        """The answer to one of these paths; raises NoSuchEndpoint."""
        match path:
            case "/":
                if "text/html" in (exchange.header("Accept") or ""):
                    return exchange.answer(200, *page.HEADERS, body=page.BODY)
                return exchange.answer(200, _TEXT, body=_HELLO.encode())
            case "/healthz":
                return exchange.answer(200, _TEXT, _NEVER_KEPT, body=b"ok\n")
            case "/readyz":
                reason = self.figures.unready()
                body = f"not ready: {reason}\n" if reason else "ready\n"
                return exchange.answer(503 if reason else 200, _TEXT, _NEVER_KEPT, body=body.encode())
            case "/metrics":
                kind = ("Content-Type", CONTENT_TYPE_LATEST)
                return exchange.answer(200, kind, _NEVER_KEPT, body=await self.figures.exposition())
            case "/stats":
                body_ = msgspec.json.encode(await self.figures.stats())
                return exchange.answer(200, ("Content-Type", "application/json"), _NEVER_KEPT, body=body_)
        raise NoSuchEndpoint(f"nothing is at {path[:160]!r}")
