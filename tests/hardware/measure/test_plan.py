import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.naming import name_of, work_of
from servesim.hardware.measure.plan import Limits, plan, thinned

LIMITS = Limits(tokens=64, sequences=8, context=128)


def works(groups, cls):
    return [w for g in groups for w in g.works.values() if isinstance(w, cls)]


def test_a_kernel_that_two_operators_share_is_measured_once(graph):
    found = [w for w in works(plan([graph, graph], LIMITS), GemmWork) if w.n == 128]
    assert [w.m for w in found] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def test_what_runs_once_a_sequence_is_measured_up_to_the_sequences(graph):
    found = plan([graph], LIMITS, only=["lm_head"])
    assert [w.m for w in works(found, GemmWork)] == [1, 2, 3, 4, 6, 8]


def test_attention_covers_prefills_decodes_and_both(graph):
    found = works(plan([graph], LIMITS), AttentionWork)
    assert any(w.decodes and not w.prefills for w in found)
    assert any(w.prefills and not w.decodes for w in found)
    assert any(w.prefills and w.decodes for w in found)
    assert max(w.decode_keys_max for w in found) == LIMITS.context
    assert all(new + context <= LIMITS.context for w in found for new, context in w.prefills)


def test_kinds_take_turns_so_that_a_short_budget_sees_each(graph):
    groups = plan([graph], LIMITS)
    kinds = {"norm", "gemm", "attention", "lm_head", "sampler"}
    assert {g.family for g in groups[: len(kinds)]} == kinds


def test_large_weights_are_left_out(graph):
    assert not works(plan([graph], Limits(64, 8, 128, weight_bytes=1e5), ["lm_head"]), GemmWork)


def test_thinning_keeps_both_ends(graph):
    group = plan([graph], LIMITS, only=["gemm"])[0]
    rows = [w.m for w in thinned([group])[0].works.values()]
    assert rows == [1, 3, 6, 12, 24, 48, 64]


@given(
    st.sampled_from(
        [
            GemmWork(3, 4, 5, scale_bytes=1.5, label="x"),
            AttentionWork(((3, 4), (5, 0)), 2, 9, 5, 4, 2, 16, 16, window=8, label="x"),
            MoeWork(3, 6.0, 4.5, 8, 2, 16, 32, label="x"),
            MemoryWork("norm", 3, 1.0, 2.0, 3.0, label="x"),
            RecurrentWork("ssd", 3, 1, 2, 4, 5, 6, 7.0, 8.0, 9.0, label="x"),
        ]
    )
)
def test_names_lead_back_to_the_work_but_for_its_label(work):
    again = work_of(name_of(work))
    assert name_of(again) == name_of(work)
    assert (again.flops, again.bytes_read, again.label) == (work.flops, work.bytes_read, "")


@pytest.mark.parametrize("each", [1e6, 30e6, 160e6])
def test_between_two_uses_of_a_copy_as_much_of_the_others_passes_as_no_cache_holds(each):
    room = Room("cpu", 96e6, 2e9)
    copies = room.copies(each)
    assert copies == 64 or (copies - 1) * each >= room.cycled_bytes
    assert copies * each <= room.most_bytes
    assert room.copies(3e9) == 1
