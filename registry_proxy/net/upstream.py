"""Exchanges with an upstream: mirrors in order, retries, a slot, authorization, redirects.

===========  =========================================================================================================
layer        what it adds
===========  =========================================================================================================
``ask``      walks the mirrors; "not there" counts only if every mirror says so
``_retry``   tries a mirror again after what may pass; never once a body has begun
``_hold``    a slot for each try, given back when the response is closed; a metric for each try
``_admit``   answers a refusal by what else there is to show, with the slot given back meanwhile (or tokens could wait for each other)
``_follow``  redirects by hand, credentials only for the mirror itself; a signed URL that is over is asked for once more
===========  =========================================================================================================
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

import stamina
import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from registry_proxy.config import Upstream
from registry_proxy.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    RegistryProxyError,
    Trouble,
    UpstreamBroken,
    UpstreamDown,
    UpstreamFailed,
    UpstreamUnreachable,
)
from registry_proxy.net.auth import Authenticator
from registry_proxy.net.authority import Authority, Refusal, Shown
from registry_proxy.net.client import Client
from registry_proxy.net.fairslots import FairSlots
from registry_proxy.net.finals import Finals
from registry_proxy.net.mirrors import Mirrors
from registry_proxy.net.outages import Outages
from registry_proxy.net.response import Response
from registry_proxy.net.slots import Slots, Urgent
from registry_proxy.net.trust import authorities
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.challenges import parse_challenges
from registry_proxy.plan.origins import Origin, redirect_target
from registry_proxy.plan.ratelimit import RateLimit, parse_rate_limit
from registry_proxy.plan.refusals import may_pass, parse_retry_after, refusal, weight
from registry_proxy.telemetry.metrics import Metrics

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_REFUSED: Final = frozenset({401, 403})
_EXPIRED: Final = _REFUSED
_GONE: Final = _EXPIRED | {400, 404, 410}  # S3 says 400 for the expired token inside a signature
_MAX_REDIRECTS = 5
_MAX_ERROR = 64 * 1024
_TRIES = 3
_TRY_FOR = 10.0
"""Seconds after which a failure is not retried: a client that waits 30 s for headers has other mirrors to try, too."""
_META_SLOTS = 4
"""Exchanges at a time for manifests, tokens, lists and small blobs: they never wait behind layers."""

_VERDICT_SLOTS = 16
"""Questions at a time about single clients: a farm that logs in waits for nothing else, and no client for what another one asks."""

_log = structlog.get_logger()


def _log_retry(details: RetryDetails) -> None:
    wait = round(details.wait_for, 3)
    _log.warning("upstream.retried", retry=details.retry_num, wait_seconds=wait, error=str(details.caused_by))


set_on_retry_hooks([_log_retry])  # stamina's own hooks import and register things in the middle of the first retry

Missing = type[BlobUnknown] | type[ManifestUnknown] | type[NameUnknown] | type[UpstreamBroken]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. ``path``: below the registry's root, ``/v2/…``; ``missing``: what a 404 means; ``accept``: statuses
    that the caller wants to see, all others are raised; ``blob``: where it is found is remembered for a while; ``urgency``: how
    urgently it waits for one of the slots for large bodies (None: it takes one of those for small answers); ``shown``: to be shown
    instead of what is at hand, in a question about whoever shows it."""

    path: str
    missing: Missing
    method: str = "GET"
    repository: Repository | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    accept: frozenset[int] = frozenset({200})
    blob: bool = False
    urgency: Urgent | None = None
    shown: Shown | None = None

    def url(self, mirror: str) -> str:
        """The URL to ask a mirror for."""
        return f"{mirror}{self.path}" + (f"?{urlencode(self.query)}" if self.query else "")


class UpstreamClient:
    """Everything that is said to one upstream; raises ConfigInvalid. ``rate_limit``: what Docker Hub said last about what is left, or None.

    ``authority``: what to show; without one, the account of the configuration, or what anybody may show.
    """

    def __init__(
        self, name: SourceHost, settings: Upstream, metrics: Metrics, authority: Authority | None = None
    ) -> None:
        self.name = name
        self.settings = settings
        self.rate_limit: RateLimit | None = None
        self._metrics = metrics
        self._client = Client(settings, authorities(name, settings))
        self._mirrors = Mirrors(settings.urls)
        self._blob_slots = Slots(settings.connections)
        self._meta_slots = Slots(_META_SLOTS)
        self._verdict_slots = FairSlots(_VERDICT_SLOTS)
        self._auth: Authority = authority or Authenticator(settings, self._client, self._meta_slots)
        self._finals = Finals()
        self._outages = Outages()
        self._exchanges = 0
        self._retired = False

    async def __aenter__(self) -> Self:
        """Nothing to do: connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def retire(self) -> None:
        """Close all connections as soon as no exchange is under way, and after each that still comes: another client is used from now on."""
        self._retired = True
        if not self._exchanges:
            await self._client.aclose()

    def scheme(self) -> str | None:
        """The authorization scheme that the upstream has asked for so far, or None."""
        return next(filter(None, (self._auth.scheme(Origin.of(url)) for url in self.settings.urls)), None)

    def asked_as(self, repository: Repository) -> str:
        """As whom we ask about this repository: empty for anybody, else the mode and the account, with what is in no host's name at the end."""
        settings = self.settings
        account = settings.account if self._auth.uses_account(repository) else None
        if account is None:
            return f"{settings.access}!" if settings.guarded else ""
        return f"{settings.access}:{account.username}!"

    def anonymous(self, repository: Repository) -> bool:
        """True if everybody may read this repository as we do: without an account, and no guard before it."""
        return not (self.settings.guarded or self._auth.uses_account(repository))

    @asynccontextmanager
    async def ask_realm(self, url: str, shown: Shown) -> AsyncIterator[Response]:
        """What the token server that the upstream has named, and that may see what clients show, answers to a GET."""
        origin = Origin.of(self.settings.urls[0])
        headers = {"Authorization": shown.authorization} if shown.authorization else {}
        what = f"the token server of {origin}"
        async with self._exchange(), AsyncExitStack() as stack:
            await stack.enter_async_context(self._outages.line(what, self._verdict_slots.slot(shown.client)))
            with self._outages.watched(what):
                sending = self._client.send("GET", url, headers, by=origin, patterns=self.settings.realms)
                response = await stack.enter_async_context(sending)
            yield response

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[Response]:
        """The response of the first mirror that has one. Raises what the heaviest failure was: trouble, ``Denied``, ``ask.missing``."""
        async with self._exchange(), AsyncExitStack() as stack:
            yield await self._first_answer(ask, stack)

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        self._exchanges += 1
        try:
            yield
        finally:
            self._exchanges -= 1
            if self._retired and not self._exchanges:
                await self._client.aclose()

    async def _first_answer(self, ask: Ask, stack: AsyncExitStack) -> Response:
        failures: list[RegistryProxyError] = []
        mirrors = self._mirrors.ordered()
        for mirror in mirrors:
            try:
                response = await self._retry(ask, mirror, stack, last=mirror == mirrors[-1])
            except RegistryProxyError as error:
                failures.append(error)
            else:
                return response
        raise max(failures, key=weight)  # the first of the heaviest

    async def _retry(self, ask: Ask, mirror: str, stack: AsyncExitStack, *, last: bool) -> Response:
        def hope(error: Exception) -> bool | float:
            return may_pass(error) if last or not isinstance(error, UpstreamDown) else False

        async for attempt in stamina.retry_context(
            hope, attempts=_TRIES, timeout=_TRY_FOR, wait_max=2.0, wait_jitter=0.3
        ):
            with attempt:
                return await stack.enter_async_context(self._hold(ask, mirror))
        raise AssertionError("stamina returns or raises")

    @asynccontextmanager
    async def _hold(self, ask: Ask, mirror: str) -> AsyncIterator[Response]:
        async with AsyncExitStack() as stack:
            try:
                response = await self._admit(ask, mirror, stack)
            except Trouble as error:
                self._metrics.upstream_error(self.name, type(error).__name__)
                raise
            self._metrics.upstream_latency(self.name, response.seconds)
            yield response

    async def _admit(self, ask: Ask, mirror: str, stack: AsyncExitStack) -> Response:
        origin = Origin.of(mirror)
        what = f"{origin} (blobs)" if ask.blob else str(origin)  # blobs may lie with somebody else
        for tries in range(1, self._auth.tries + 1):
            shown = ask.shown or Shown(await self._auth.header(origin, ask.repository))
            async with AsyncExitStack() as held:
                await held.enter_async_context(self._outages.line(what, self._slot(ask)))
                with self._outages.watched(what):
                    response = await self._follow(ask, mirror, shown.authorization, held)
                self.rate_limit = parse_rate_limit(response.headers) or self.rate_limit
                if response.status in ask.accept:
                    await stack.enter_async_context(held.pop_all())
                    return response
                body = await response.read_start(_MAX_ERROR)
                refused = _refused(ask, origin, response, shown)
                hope = refused is not None and self._auth.learn(refused) and ask.shown is None
                if not hope or tries == self._auth.tries:
                    raise self._refusal(ask, refused, response, body)
        raise AssertionError("the last try returns or raises")

    def _slot(self, ask: Ask) -> AbstractAsyncContextManager[None]:
        if ask.shown is not None:
            return self._verdict_slots.slot(ask.shown.client)
        return (self._meta_slots if ask.urgency is None else self._blob_slots).slot(ask.urgency)

    def _refusal(self, ask: Ask, refused: Refusal | None, response: Response, body: bytes) -> RegistryProxyError:
        """What to raise for an answer that was not wanted. ``refused``: a refusal of the mirror itself."""
        subject = f"{self.name}: {ask.method} {ask.path} at {response.origin}"
        if refused is None and response.status in _REFUSED:
            return UpstreamFailed(f"{subject}: {response.status} to a URL that the upstream gave out")
        denial = self._auth.denial(refused, subject) if refused is not None else None
        if denial is not None:
            return denial
        retry_after = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        account = self._auth.uses_account(ask.repository)
        return refusal(response.status, body, retry_after, subject=subject, missing=ask.missing, account=account)

    async def _follow(self, ask: Ask, mirror: str, header: str | None, stack: AsyncExitStack) -> Response:
        """The response at the end of the redirects: where it was found lately, else asked anew, at most twice."""
        asked = ask.url(mirror)
        found = self._finals.get(ask.method, asked) if ask.blob else None
        starts = [(found, _GONE)] if found else []
        for start, again in (*starts, (asked, _EXPIRED), (asked, frozenset[int]())):
            async with AsyncExitStack() as walked:
                try:
                    response = await self._walk(ask, mirror, header, start, walked)
                except Trouble:
                    self._finals.forget(ask.method, asked)
                    raise
                if response.origin != Origin.of(mirror):
                    if response.status in again:
                        self._finals.forget(ask.method, asked)
                        continue
                    if ask.blob and response.status in {200, 206} and start == asked:
                        self._finals.remember(ask.method, asked, response.url)
                await stack.enter_async_context(walked.pop_all())
                return response
        raise AssertionError("the last start returns or raises")

    async def _walk(self, ask: Ask, mirror: str, header: str | None, url: str, stack: AsyncExitStack) -> Response:
        origin = Origin.of(mirror)
        patterns = self.settings.redirect_hosts
        for _ in range(1 + _MAX_REDIRECTS):
            own = Origin.of(url) == origin
            headers = {**ask.headers, "Authorization": header} if own and header else ask.headers
            async with AsyncExitStack() as hop:
                with self._watched(mirror if own else None):
                    sending = self._client.send(ask.method, url, headers, by=origin, patterns=patterns)
                    response = await hop.enter_async_context(sending)
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None:
                    await stack.enter_async_context(hop.pop_all())
                    return response
                await response.read_start(_MAX_ERROR)  # so that the connection can be used again
                url = redirect_target(origin, url, location, patterns)
        raise UpstreamBroken(f"{origin} redirects more than {_MAX_REDIRECTS} times")

    @contextmanager
    def _watched(self, mirror: str | None) -> Iterator[None]:
        """Note whether a mirror (None: another host, which says nothing about one) answers at all."""
        try:
            yield
        except UpstreamUnreachable:
            if mirror is not None:
                self._mirrors.mark_down(mirror)
            raise
        if mirror is not None:
            self._mirrors.mark_up(mirror)


def _refused(ask: Ask, mirror: Origin, response: Response, shown: Shown) -> Refusal | None:
    """The refusal, if this is one of the mirror itself; other hosts know nothing of what was shown."""
    if response.status not in _REFUSED or response.origin != mirror:
        return None
    challenges = parse_challenges(response.all("WWW-Authenticate")) if response.status == 401 else ()
    return Refusal(mirror, ask.repository, response.status, challenges, shown)
