"""What a tier gives up, and that its bytes are all accounted for."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servesim.runtime.tiers.eviction import EVICTIONS
from servesim.runtime.tiers.options import Tier
from servesim.runtime.tiers.store import Entry, Store


def trace(name: str) -> list[Hashable]:
    """The order in which a policy gives up a to e after c, a, a and d were used."""
    policy = EVICTIONS.build(name)
    for key, cost in zip("abcde", (1.0, 5.0, 2.0, 4.0, 3.0), strict=True):
        policy.added(key, cost)
    for key in "caad":
        policy.used(key)
    gone = []
    for _ in range(5):
        gone.append(policy.victim())
        policy.removed(gone[-1])
    return gone


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("fifo", "abcde"),
        ("lru", "becad"),
        ("lfu", "becda"),
        ("cost_aware", "eacbd"),  # uses times cost: e 3, a 3 (later), c 4, b 5, d 8
    ],
)
def test_eviction_policies_by_hand(name: str, order: str) -> None:
    assert "".join(map(str, trace(name))) == order


def test_every_eviction_policy_is_tried_above() -> None:
    assert EVICTIONS.names() == ("cost_aware", "fifo", "lfu", "lru")


def test_cost_aware_entries_grow_old() -> None:
    policy = EVICTIONS.build("cost_aware")
    policy.added("dear", 3.0)
    for i in range(5):
        policy.added(i, 1.0)
        gone = policy.victim()
        policy.removed(gone)
        if gone == "dear":
            break
    assert i == 2  # each one given up makes those that come later worth a second more


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["fifo", "lru", "lfu", "cost_aware"]),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5), st.booleans()), max_size=60),
)
def test_bytes_in_are_bytes_out_and_resident_after_every_event(
    policy: str, exclusive: bool, events: list[tuple[int, int, bool]]
) -> None:
    store = Store(
        Tier(name="host", capacity_bytes=12, bandwidth=1000.0, eviction=policy, exclusive=exclusive)
    )
    for time, (key, size, write) in enumerate(events):
        if write:
            store.put(key, Entry(size, 1.0 + key), float(time))
        elif store.holds(key, 1e9):
            store.recall(key, 1, float(time))
        assert store.bytes_in == store.bytes_out + store.resident
        assert 0 <= store.resident <= 12
        assert store.resident == sum(entry.size for entry in store._entries.values())
        assert store.writer.carried_bytes == store.bytes_in
        assert store.reader.carried_bytes == store.read
