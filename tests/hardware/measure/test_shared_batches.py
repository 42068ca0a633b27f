"""Decodes that share blocks: planned, laid out and fitted."""

from dataclasses import replace

import pytest

from servesim.errors import UnsupportedError
from servesim.graph.ops.attention import Attention
from servesim.graph.work import AttentionWork
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.fitting import fit_all
from servesim.hardware.measure.kernels import makers
from servesim.hardware.measure.kernels.vllm_batch import Sequences
from servesim.hardware.measure.naming import name_of, work_of
from servesim.hardware.measure.plan import Limits, plan

APART = AttentionWork((), 4, 4000, 1000, 4, 2, 16, 16)
SHARED = replace(APART, shared_keys=512, repeated_keys=3 * 512)


def test_decodes_that_share_half_of_their_blocks_or_all_are_planned(graph):
    groups = plan([graph], Limits(tokens=64, sequences=8, context=1024), only=["attention"])
    found = [w for g in groups for w in g.works.values() if w.repeated_keys]
    assert {(w.decodes, w.shared_keys) for w in found} == {
        (n, tokens) for n in (2, 8) for tokens in (128, 384, 896)
    }
    assert all(w.repeated_keys == (w.decodes - 1) * w.shared_keys for w in found)


def test_only_work_that_shares_says_so_in_its_name():
    assert "shared" not in name_of(APART)
    assert replace(work_of(name_of(SHARED)), label=SHARED.label) == SHARED


def test_rows_share_their_first_blocks_and_no_others():
    pytest.importorskip("torch")
    batch = Sequences(SHARED)
    tables = [place.table for place in batch.places(128, 4096)]
    for table in tables:
        assert (table[:, :4] == table[0, :4]).all()
        own = table[:, 4:8].flatten().tolist()
        assert len({*own, *table[0, :4].tolist()}) == 4 * 4 + 4
    first, second = ({*table.flatten().tolist()} for table in tables[:2])
    assert not first & second - {0}


def test_a_shared_part_of_a_block_cannot_be_measured():
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="blocks of 1024 tokens do not share 512"):
        Sequences(SHARED).places(1024, 4096)
    spec = Attention(4, 2, 16, 16)
    with pytest.raises(UnsupportedError, match="no blocks to share"):
        makers("torch")["attention"](spec, Room("cpu", 1e5, 1e8)).calls(SHARED)


@pytest.mark.parametrize(("again", "expected"), [(1e-9, 1e-9), (0.0, 0.0), (3e-8, 1e-8)])
def test_keys_read_again_are_fitted_and_never_dearer_than_others(again, expected):
    seconds = {}
    for count in (1, 2, 4, 8, 16):
        for keys in (100, 300, 1000):
            for shared in (0, 64, keys // 2 // 64 * 64):
                work = AttentionWork((), count, count * keys, keys, 4, 2, 16, 16)
                repeated = (count - 1) * shared
                work = replace(work, shared_keys=shared, repeated_keys=repeated)
                seconds[work] = 1e-5 + 1e-8 * (count * keys - repeated) + again * repeated
    memory = MemoryTier("memory", 1e9, 1e11)
    fitted = fit_all(Device("toy", "cpu", {"bf16": 1e13}, memory), seconds, "a test")
    (terms,) = [v for k, v in fitted.measured["attention"].items() if k.startswith("bf16")]
    assert terms["repeated_keys"] == pytest.approx(expected, rel=1e-2, abs=1e-12)
    line = next(line for line in fitted.errors if line.how == "the same, shared keys")
    assert line.kernels == sum(work.repeated_keys > 0 for work in seconds)
