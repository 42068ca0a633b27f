"""How a batch is laid out in a paged cache: decodes end anywhere in a block."""

from __future__ import annotations

import pytest

from servesim.graph.work import AttentionWork
from servesim.hardware.measure.kernels.vllm_batch import Sequences

BLOCK = 32


def decodes(count, keys, window=None):
    return AttentionWork((), count, count * keys, keys, 4, 2, 64, 64, window=window)


@pytest.mark.parametrize(("count", "keys"), [(1, 64), (3, 64), (16, 256)])
def test_lengths_keep_their_mean_and_end_evenly_in_blocks(count, keys):
    places = Sequences(decodes(count, keys)).places(BLOCK, 4096)
    lengths = [n for place in places for n in place.lengths.tolist()]
    assert sum(lengths) / len(lengths) == pytest.approx(keys, abs=0.5)
    assert min(lengths) >= keys - BLOCK // 2
    assert max(lengths) <= keys + BLOCK // 2
    ends = [sum(n % BLOCK // 8 == quarter for n in lengths) for quarter in range(4)]
    assert min(ends) > 0.2 * len(lengths)


def test_places_do_not_overlap_and_new_tokens_go_to_the_last_one():
    seen = set()
    for place in Sequences(decodes(3, 64)).places(BLOCK, 128):
        for row, length, slot in zip(place.table, place.lengths, place.slots, strict=True):
            used = {int(block) for block in row[: -(-int(length) // BLOCK)]}
            assert not used & seen
            seen |= used
            assert int(slot) == int(row[(length - 1) // BLOCK]) * BLOCK + (length - 1) % BLOCK
    assert max(seen) < 128


def test_a_full_window_is_that_of_sequences_which_outgrew_it():
    (place, *_) = Sequences(decodes(2, 128, window=128)).places(BLOCK, 1024)
    assert all(length > 128 + BLOCK for length in place.lengths)
    (place, *_) = Sequences(decodes(2, 100, window=128)).places(BLOCK, 1024)
    assert all(length < 128 for length in place.lengths)
