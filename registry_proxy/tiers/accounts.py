"""What the store believes to hold, by group: bytes on disk, last use, which chunks.

Beliefs only guide planning and eviction; whether a chunk is there is decided by opening its file. They are kept in memory in
the order of last use, saved in pages (one per first two digits of the digest) and corrected by looking at the files.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from registry_proxy.oci.digest import Digest
from registry_proxy.plan import eviction
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers.layout import GROUP, GroupKey
from registry_proxy.tiers.schema import AccountPage, GroupAccount


class Beneficiary(NamedTuple):
    """The blob for whose sake a group is spared; it has so many groups."""

    digest: Digest
    groups: int


class Group:
    """The account of one group. ``bytes``: on disk; ``mask``: a bit per chunk held; ``last_use``: seconds since the epoch;
    ``spared_for``: the blob that is hard to use without it, if there is one."""

    __slots__ = ("bytes", "key", "last_use", "mask", "pins", "spared_for")

    def __init__(self, key: GroupKey, last_use: float) -> None:
        self.key = key
        self.bytes = 0
        self.mask = 0
        self.last_use = last_use
        self.pins = 0
        self.spared_for: Beneficiary | None = None

    @property
    def pinned(self) -> bool:
        """True while a chunk of it is open or being written."""
        return self.pins > 0


class Accounts:
    """All groups, least recently used first. ``bytes``: the sum; ``doubtful``: groups whose files should be looked at;
    ``changed_pages``: names of the pages to save; ``held``: blobs that do not go to make room.

    While files are ``counted``, every group that changes becomes doubtful, so that what was seen of it earlier is not believed.
    ``clock``: seconds since the epoch. Marks only ever grow, so a clock that is set back does not disturb the order.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._groups: OrderedDict[GroupKey, Group] = OrderedDict()
        self._blobs: dict[
            Digest, dict[int, Group]
        ] = {}  # the same by blob: how large one is said to be must cost nothing
        self._last_mark = 0.0
        self.bytes = 0
        self.doubtful: set[GroupKey] = set()
        self._counts = 0
        self.held: set[Digest] = set()
        self.changed_pages: set[str] = set()

    def __len__(self) -> int:
        return len(self._groups)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Files are being looked at meanwhile; perhaps by several."""
        self._counts += 1
        try:
            yield
        finally:
            self._counts -= 1

    @property
    def counting(self) -> bool:
        """True while files are being looked at."""
        return self._counts > 0

    def __iter__(self) -> Iterator[Group]:
        """The groups, least recently used first."""
        return iter(self._groups.values())

    def evictable(self, share: int) -> Iterator[Group]:
        """The groups of blobs that are not held, least recently used first; up to ``share`` bytes of those that are spared stay out."""
        groups = (group for group in self._groups.values() if group.key.digest not in self.held)
        return eviction.without(groups, self._is_spared, share)

    def spare(self, key: GroupKey, sake: Beneficiary) -> None:
        """Keep this group as long as others of that blob are here, as far as there is room for that."""
        group = self._groups.get(key)
        if group is not None and group.spared_for != sake:
            group.spared_for = sake
            self.changed_pages.add(key.digest.hex[:2])

    def _is_spared(self, group: Group) -> bool:
        """True while the blob for whose sake it is spared has another group here that is not spared itself."""
        if group.spared_for is None:
            return False
        return any(other.mask and other.spared_for is None for other in self._first_of(*group.spared_for))

    @property
    def chunks(self) -> int:
        """Number of chunks believed to be held."""
        return sum(group.mask.bit_count() for group in self._groups.values())

    def of_blob(self, digest: Digest) -> list[Group]:
        """The groups of one blob."""
        return list(self._blobs.get(digest, {}).values())

    def find(self, key: GroupKey) -> Group | None:
        """The account of a group, if there is one."""
        return self._groups.get(key)

    def use(self, key: GroupKey) -> Group:
        """Mark a group as used now; opens an account if there is none."""
        self._last_mark = mark = max(self._clock(), self._last_mark)
        group = self._groups.get(key)
        if group is None:
            group = self._open(key, mark)
        else:
            self._groups.move_to_end(key)
            group.last_use = mark
        self.changed_pages.add(key.digest.hex[:2])
        return group

    def has(self, digest: Digest, index: int) -> bool:
        """True if the chunk is believed to be held."""
        group = self._groups.get(GroupKey.of(digest, index))
        return group is not None and bool(group.mask >> index % GROUP & 1)

    def missing(self, digest: Digest, grid: Grid) -> int:
        """Number of the blob's chunks that are believed not to be held."""
        return grid.count - sum(group.mask.bit_count() for group in self._first_of(digest, -(-grid.count // GROUP)))

    def stored(self, key: GroupKey, index: int, size: int) -> None:
        """A chunk that takes ``size`` bytes on disk was committed."""
        group = self.use(key)
        bit = 1 << index % GROUP
        if self.counting or group.mask & bit:  # counted already, or it replaced a file whose size is not known here
            self.doubtful.add(key)
        self._set(group, group.bytes + size, group.mask | bit)

    def lost(self, digest: Digest, index: int) -> None:
        """A chunk proved not to be there."""
        group = self._groups.get(GroupKey.of(digest, index))
        if group is not None and group.mask >> index % GROUP & 1:
            self._set(group, group.bytes, group.mask & ~(1 << index % GROUP))
            self.doubtful.add(group.key)

    def correct(self, key: GroupKey, size: int, mask: int, last_use: float) -> None:
        """What a look at the files found: ``size`` bytes of the chunks in ``mask``. An empty group's account is closed."""
        group = self._groups.get(key)
        if group is None:
            if not mask:
                return
            group = self._open(key, last_use)
            self._groups.move_to_end(key, last=False)
        self._set(group, size, mask)
        group.last_use = max(group.last_use, last_use)
        if not mask and not group.pinned:
            self._close(key)

    def forget(self, key: GroupKey) -> None:
        """Close an account: the group's files are going."""
        group = self._close(key)
        if group is not None:
            self._set(group, 0, 0)
        if self.counting:
            self.doubtful.add(key)

    def _first_of(self, digest: Digest, count: int) -> Iterator[Group]:
        """Those of the first ``count`` groups of a blob that have an account."""
        return (group for number, group in self._blobs.get(digest, {}).items() if number < count)

    def _open(self, key: GroupKey, last_use: float) -> Group:
        group = self._groups[key] = Group(key, last_use)
        self._blobs.setdefault(key.digest, {})[key.number] = group
        return group

    def _close(self, key: GroupKey) -> Group | None:
        group = self._groups.pop(key, None)
        if group is not None:
            of_blob = self._blobs[key.digest]
            del of_blob[key.number]
            if not of_blob:
                del self._blobs[key.digest]
        return group

    def _set(self, group: Group, size: int, mask: int) -> None:
        self.bytes += size - group.bytes
        group.bytes, group.mask = size, mask
        self.changed_pages.add(group.key.digest.hex[:2])

    def sort(self) -> None:
        """Put the groups in the order of last use again, after accounts were loaded or corrected."""
        self._groups = OrderedDict(sorted(self._groups.items(), key=lambda item: item[1].last_use))
        self._last_mark = max((group.last_use for group in self._groups.values()), default=self._last_mark)

    # --- pages ---------------------------------------------------------------------------------------------------------

    def pages(self, names: Collection[str]) -> dict[str, AccountPage]:
        """The pages of these names as they are now."""
        found: dict[str, list[GroupAccount]] = {name: [] for name in names}
        for group in self._groups.values():
            page = found.get(group.key.digest.hex[:2])
            if page is not None and group.mask:
                page.append(_account(group))
        return {name: AccountPage(tuple(accounts)) for name, accounts in found.items()}

    def load(self, page: AccountPage, except_for: Container[GroupKey]) -> None:
        """Take what a page says, leaving out groups that changed since: those are looked at instead."""
        for account in page.groups:
            key = GroupKey(Digest.parse(account.digest), account.number)
            if key not in except_for:
                self.correct(key, account.bytes, account.mask, account.last_use)
                if account.spared_for:
                    self.spare(key, Beneficiary(Digest.parse(account.spared_for), account.groups))


def _account(group: Group) -> GroupAccount:
    sake = group.spared_for
    spared_for, groups = (str(sake.digest), sake.groups) if sake else ("", 0)
    key = group.key
    return GroupAccount(str(key.digest), key.number, group.bytes, group.mask, group.last_use, spared_for, groups)
