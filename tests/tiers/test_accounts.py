"""What the store believes to hold."""

from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers.accounts import Accounts, Beneficiary
from registry_proxy.tiers.layout import GROUP, GroupKey

DIGEST = Digest.of(b"blob")


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def keys(accounts: Accounts) -> list[int]:
    """The numbers of the groups, least recently used first."""
    return [group.key.number for group in accounts]


def test_chunks_are_counted_by_group() -> None:
    """Bytes, presence and what is missing follow the commits."""
    accounts = Accounts(Clock())
    grid = Grid(100 * GROUP, 1)
    accounts.stored(GroupKey(DIGEST, 0), 3, 4096)
    accounts.stored(GroupKey(DIGEST, 1), GROUP + 3, 8192)
    assert accounts.bytes == 12288
    assert accounts.chunks == 2
    assert accounts.has(DIGEST, 3)
    assert not accounts.has(DIGEST, 4)
    assert accounts.missing(DIGEST, grid) == 100 * GROUP - 2


def test_the_order_of_use_survives_a_clock_set_back() -> None:
    """Marks only grow, so what is used later counts as used later, also after a restart."""
    clock = Clock()
    accounts = Accounts(clock)
    for number in (0, 1, 2):
        accounts.stored(GroupKey(DIGEST, number), number * GROUP, 1)
        clock.now -= 100
    accounts.use(GroupKey(DIGEST, 0))
    assert keys(accounts) == [1, 2, 0]
    accounts.sort()
    assert keys(accounts) == [1, 2, 0]


def test_a_chunk_that_is_not_there_puts_its_group_in_doubt() -> None:
    """Its bit is cleared at once; its bytes are corrected by looking."""
    accounts = Accounts(Clock())
    key = GroupKey(DIGEST, 0)
    accounts.stored(key, 3, 4096)
    accounts.lost(DIGEST, 3)
    assert not accounts.has(DIGEST, 3)
    assert accounts.doubtful == {key}
    accounts.correct(key, 0, 0, 0.0)
    assert (accounts.bytes, len(accounts)) == (0, 0)


def test_what_changes_while_the_files_are_counted_is_looked_at_again() -> None:
    """A count that started before a commit must not undo it."""
    accounts = Accounts(Clock())
    with accounts.counted():
        with accounts.counted():
            pass  # another count that began and ended meanwhile
        accounts.stored(GroupKey(DIGEST, 0), 3, 4096)
        accounts.forget(GroupKey(DIGEST, 7))
    accounts.stored(GroupKey(DIGEST, 8), 8 * GROUP, 4096)
    assert accounts.doubtful == {GroupKey(DIGEST, 0), GroupKey(DIGEST, 7)}


def test_a_group_in_use_keeps_its_account() -> None:
    """Marks and pins of a reader are not lost when its group is found empty."""
    accounts = Accounts(Clock())
    group = accounts.use(GroupKey(DIGEST, 0))
    group.pins += 1
    accounts.correct(group.key, 0, 0, 0.0)
    assert accounts.find(group.key) is group


@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 300)), max_size=40))
def test_pages_bring_everything_back(chunks: set[tuple[int, int]]) -> None:
    """Saved and loaded accounts say the same, in the same order of use."""
    clock = Clock()
    saved = Accounts(clock)
    for blob, index in chunks:
        clock.now += 1
        digest = Digest.of(bytes([blob]))
        saved.stored(GroupKey.of(digest, index), index, 4096 * (blob + 1))
    loaded = Accounts(clock)
    assert saved.changed_pages == {key.digest.hex[:2] for key in (group.key for group in saved)}
    for page in saved.pages(saved.changed_pages).values():
        loaded.load(page, except_for=())
    loaded.sort()
    assert [(g.key, g.bytes, g.mask, g.last_use) for g in loaded] == [
        (g.key, g.bytes, g.mask, g.last_use) for g in saved
    ]
    assert loaded.bytes == saved.bytes


def spared(clock: Clock) -> Accounts:
    """A blob of three groups, the last of which holds its TOC and was used longest ago."""
    accounts = Accounts(clock)
    for number in (2, 0, 1):
        accounts.stored(GroupKey(DIGEST, number), number * GROUP, 10)
    accounts.spare(GroupKey(DIGEST, 2), Beneficiary(DIGEST, 3))
    return accounts


def evictable(accounts: Accounts, share: int) -> list[int]:
    return [group.key.number for group in accounts.evictable(share)]


def test_a_spared_group_outlasts_the_others_of_its_blob() -> None:
    """It may go only when nothing else of the blob is left, or when too much is spared."""
    accounts = spared(Clock())
    assert evictable(accounts, 10) == [0, 1]
    assert evictable(accounts, 9) == [2, 0, 1]
    accounts.forget(GroupKey(DIGEST, 0))
    assert evictable(accounts, 10) == [1]
    accounts.forget(GroupKey(DIGEST, 1))
    assert evictable(accounts, 10) == [2]


def test_what_is_spared_survives_a_restart() -> None:
    """The pages say so."""
    before, after = spared(Clock()), Accounts(Clock())
    for page in before.pages(before.changed_pages).values():
        after.load(page, set())
    assert sorted(evictable(after, 10)) == [0, 1]


def test_a_group_of_one_blob_is_spared_for_another() -> None:
    """A zTOC stays as long as the layer that it is the index of."""
    accounts, ztoc = Accounts(Clock()), Digest.of(b"ztoc")
    accounts.stored(GroupKey(ztoc, 0), 0, 10)
    accounts.stored(GroupKey(DIGEST, 1), GROUP, 10)
    accounts.spare(GroupKey(ztoc, 0), Beneficiary(DIGEST, 2))
    assert [group.key.digest for group in accounts.evictable(10)] == [DIGEST]
    accounts.forget(GroupKey(DIGEST, 1))
    assert [group.key.digest for group in accounts.evictable(10)] == [ztoc]
