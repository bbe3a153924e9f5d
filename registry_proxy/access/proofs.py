"""Proofs that an upstream gives a blob to whoever asks, for upstreams in ``open`` mode.

Facts are what a repository itself has answered, keyed by (upstream, repository, digest). A digest that an upstream gives to
anonymous clients, and that we give to everybody, is public: it may be read through any repository of an open upstream (docs/architecture.md, "Facts").
"""

from collections.abc import Callable, Mapping

from registry_proxy.config import Policy
from registry_proxy.errors import BlobUnknown, Offline
from registry_proxy.net.single import SingleFlight
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.sources.base import BlobPlace
from registry_proxy.sources.registry import Registry
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import Fact, Public


class Proofs:
    """Admits readers to blobs, with as few questions to the upstream as the proofs at hand allow.

    ``closed``: something private may lie in the store, or be on its way there. Then nothing is served on a manifest's word: who reads
    along with somebody else's download would get what his own repository does not have. ``for_everybody``: whoever reaches the proxy may
    have what it gets of that upstream; what others give to anonymous clients, us among them, is not public.
    """

    def __init__(
        self,
        registries: Mapping[SourceHost, Registry],
        records: Records,
        policy: Policy,
        *,
        closed: Callable[[], bool] = lambda: False,
        for_everybody: Callable[[SourceHost], bool] = lambda _: True,
    ) -> None:
        self._closed = closed
        self._for_everybody = for_everybody
        self._registries = registries
        self._records = records
        self._policy = policy
        self._asking: SingleFlight[BlobPlace, int] = SingleFlight()

    def apply(self, policy: Policy) -> None:
        """Hold this policy from the next question on."""
        self._policy = policy

    async def admit(self, place: BlobPlace, *, certain: bool) -> tuple[int, bool]:
        """The blob's size, and whether that is a fact; see ``pull.blobs.Doorkeeper``. Raises BlobUnknown, Denied, Trouble."""
        key = self._records.digest_key(place.upstream, place.repository, place.digest)
        fact = await self._records.facts.get(key)
        if fact is not None:
            return fact.size, True
        if self._anonymous(place) and (public := await self._public(place.digest)) is not None:
            return public.size, True
        if not certain and not self._closed() and (hint := await self._records.hints.get(key)) is not None:
            return hint.size, False
        if self._policy.offline:
            raise Offline(f"the proxy is offline, and it is not known whether {place.repository} has {place.digest}")
        return await self._asking.do(place, lambda: self._ask(place)), True

    async def public(self, place: BlobPlace) -> None:
        """Return if an anonymous client may pull this blob; raises BlobUnknown or Trouble if not."""
        if await self.known_public(place):
            return
        if not self._anonymous(place):
            raise BlobUnknown(f"{place.digest} is not known to be for everybody")
        if self._policy.offline:
            raise Offline(f"the proxy is offline, and it is not known whether {place.repository} has {place.digest}")
        await self._asking.do(place, lambda: self._ask(place))

    async def known_public(self, place: BlobPlace) -> bool:
        """True if that is known already: a fact is enough where it is one that an anonymous client can learn."""
        if await self._public(place.digest) is not None:
            return True
        key = self._records.digest_key(place.upstream, place.repository, place.digest)
        return self._anonymous(place) and await self._records.facts.get(key) is not None

    async def may_share(self, place: BlobPlace) -> bool:
        """True if this blob may come from what is shared with others: its repository is pulled anonymously, or it is public."""
        return self._anonymous(place) or await self._public(place.digest) is not None

    async def _ask(self, place: BlobPlace) -> int:
        size = await self._registries[place.upstream].head_blob(place.repository, place.digest)
        await self.proved(place, size, told=True)
        return size

    async def proved(self, place: BlobPlace, size: int, *, told: bool) -> None:
        """The repository itself has said that it has this blob. ``told``: and how long it is; if not, a lie about that stays its own."""
        await self._records.facts.put(
            self._records.digest_key(place.upstream, place.repository, place.digest), Fact(size)
        )
        if told and self._anonymous(place) and self._for_everybody(place.upstream):
            await self._records.public.put(str(place.digest), Public(size, place.upstream))

    async def contested(self, place: BlobPlace) -> None:
        """The size that was proved, or claimed, is not the one that the repository sends."""
        key = self._records.digest_key(place.upstream, place.repository, place.digest)
        await self._records.facts.delete(key)
        await self._records.hints.delete(key)
        await self._records.public.delete(str(place.digest))

    async def _public(self, digest: Digest) -> Public | None:
        """What an upstream has said of it that everybody may use now, as then."""
        said = await self._records.public.get(str(digest))
        return said if said is not None and self._for_everybody(SourceHost(said.upstream)) else None

    def _anonymous(self, place: BlobPlace) -> bool:
        return self._registries[place.upstream].anonymous(place.repository)
