"""Experts outside the devices: steps between their bounds, memory, and what a run reports."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from servesim import Scenario, simulate
from servesim.cli.render_result import result_facts
from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.runtime.expert_offload_step import ExpertOffloadStepModel
from servesim.scenario.build import Served, serve
from servesim.scenario.summary import summarise
from servesim.units import GIB

EXAMPLE = Path(__file__).parents[2] / "examples" / "expert-offload.toml"
MODEL = "Qwen/Qwen3-30B-A3B"
LAYERS, EXPERTS, TOP_K = 48, 128, 8
EXPERT = 3 * 2048 * 768 * 2  # bytes, bf16
LINK = {"bandwidth": 25e9, "latency": 10e-6}
COPY = 10e-6 + EXPERT / 25e9
DECODES = BatchShape((), 4, 2000, 500)
ZIPF = {"kind": "zipf", "exponent": 0.8}


def served(
    routing: dict[str, Any] | None = None, engine: dict[str, Any] | None = None, **offload: Any
) -> Served:
    sections: dict[str, Any] = {"expert_offload": {"link": LINK, **offload}} if offload else {}
    scenario = Scenario.of(
        model={"id": MODEL, **({"expert_routing": routing} if routing else {})},
        hardware="h100_sxm",
        engine={"max_model_len": 4096, **(engine or {})},
        **sections,
    )
    return serve(scenario.instances[0])


def seconds(one: Served, batch: BatchShape = DECODES) -> float:
    return one.step_model.seconds(batch)


@cache
def stepping(slots: int, exponent: float = 0.0) -> float:
    routing = {"kind": "zipf", "exponent": exponent} if exponent else None
    return seconds(served(routing, gpu_expert_slots=slots))


@pytest.mark.parametrize("routing", [None, ZIPF])
def test_all_experts_on_the_device_is_no_offloading(routing: dict[str, Any] | None) -> None:
    plain = served(routing)
    for given in ({"gpu_expert_slots": EXPERTS}, {"gpu_memory_gb": 60.0}):
        everything = served(routing, **given)
        assert seconds(everything) == seconds(plain)
        assert everything.memory == plain.memory
        found = everything.step_model.decode_seconds(4, 2000, 500)
        assert found == plain.step_model.decode_seconds(4, 2000, 500)


def test_no_slots_is_the_link_and_one_expert() -> None:
    plain, one = served(), served(gpu_expert_slots=0)
    rows = plain.step_model.cost_breakdown(DECODES)
    whole = next(row.seconds for row in rows if row.label == "experts")
    touched = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** 4)
    # Each layer: all copies one after another, and the last expert's products behind them.
    expected = seconds(plain) - whole + LAYERS * touched * COPY + whole / touched
    assert seconds(one) == pytest.approx(expected)
    assert seconds(one) > LAYERS * touched * EXPERT / 25e9
    model = one.step_model
    assert isinstance(model, ExpertOffloadStepModel)
    assert model.fetched(DECODES)[1] == pytest.approx(LAYERS * touched * EXPERT)


@pytest.mark.parametrize("exponent", [0.0, 0.8])
def test_more_slots_are_never_slower(exponent: float) -> None:
    found = [stepping(slots, exponent) for slots in (0, 1, 8, 32, 64, 96, 127, 128)]
    assert found == sorted(found, reverse=True)


def test_skewed_experts_are_found_more_often() -> None:
    for slots in (8, 32, 64, 96):
        assert stepping(slots, 1.2) < stepping(slots, 0.6) < stepping(slots)


def predicted(accuracy: float | None, slots: int, bandwidth: float) -> Served:
    guess = {} if accuracy is None else {"prefetch_accuracy": accuracy, "prefetch": "next_layer"}
    link = {"bandwidth": bandwidth, "latency": 0.0}
    return served(ZIPF, gpu_expert_slots=slots, link=link, **guess)


def test_copies_ahead_hide_behind_the_layer_before() -> None:
    plain = seconds(served(ZIPF))
    on_demand, *ahead = (seconds(predicted(p, 120, 60e9)) for p in (None, 0.5, 0.8, 1.0))
    # With every expert predicted only the first layer waits, as nothing predicts its own.
    assert ahead[-1] == pytest.approx(plain + (on_demand - plain) / LAYERS)
    assert plain < ahead[-1] < ahead[1] < ahead[0] < on_demand


def test_copies_in_vain_cost_a_link_that_is_busy_anyway() -> None:
    one, rate = predicted(0.5, 64, 25e9), 25e9
    model = one.step_model
    assert isinstance(model, ExpertOffloadStepModel)
    (misses,) = model.experts[0].cache.misses(4)
    copies = misses.missed * EXPERT / rate
    moved = copies * (1 + 47 * 1.5)
    assert model.fetched(DECODES)[1] == pytest.approx(moved * rate)
    assert moved < seconds(one) < 1.1 * moved
    right, on_demand = (seconds(predicted(p, 64, rate)) for p in (1.0, None))
    assert LAYERS * copies < right < on_demand < seconds(one)


def test_computed_on_the_host_is_as_experts_placed_there() -> None:
    there = {"policy": "static", "compute": "host", "host": "xeon_8480"}
    hosted = served(gpu_expert_slots=0, **there)
    placed = serve(
        Scenario.of(
            model=MODEL,
            hardware="h100_sxm",
            engine={"max_model_len": 4096},
            placement={
                "kind": "by_kind",
                "options": {"ops": {"experts": "cpu"}},
                "devices": [{"name": "cpu", "device": "xeon_8480", "link": LINK}],
            },
        ).instances[0]
    )
    assert seconds(hosted) == pytest.approx(seconds(placed), rel=0.02)
    assert hosted.memory.weight_bytes == pytest.approx(placed.memory.weight_bytes, rel=0.01)
    half = served(ZIPF, gpu_expert_slots=64, **there)
    assert seconds(served(ZIPF)) < seconds(half) < seconds(hosted)


def test_the_cheaper_of_copying_and_computing() -> None:
    found = {}
    prompt = BatchShape.of_tokens(100_000)
    for compute in ("stream", "host", "cheaper"):
        one = served(ZIPF, gpu_expert_slots=32, policy="static", compute=compute, host="xeon_8480")
        found[compute] = [seconds(one, batch) for batch in (DECODES, prompt)]
    assert found["host"][0] < found["stream"][0]
    assert found["stream"][1] < found["host"][1]
    assert found["cheaper"] == [found["host"][0], found["stream"][1]]


def test_memory_holds_the_slots_and_two_on_their_way() -> None:
    plain, one = served(), served(gpu_expert_slots=32)
    outside = (EXPERTS - 32) * LAYERS * EXPERT - 2 * EXPERT
    assert plain.memory.weight_bytes - one.memory.weight_bytes == pytest.approx(outside)
    assert one.memory.kv_cache_bytes - plain.memory.kv_cache_bytes == pytest.approx(outside)
    by_size = served(gpu_memory_gb=32 * LAYERS * EXPERT / GIB + 0.01)
    assert by_size.memory == one.memory


def test_devices_of_a_group_share_the_host() -> None:
    alone = served(gpu_expert_slots=0)
    pair = served(engine={"tensor_parallel_size": 2}, gpu_expert_slots=0)
    assert seconds(pair) == pytest.approx(seconds(alone) / 2, rel=0.1)  # a link each
    link = {"bandwidth": 400e9, "latency": 0.0}  # more than the host's memory gives
    shared = {"gpu_expert_slots": 0, "host": "xeon_8480", "link": link}
    alone, pair = served(**shared), served(engine={"tensor_parallel_size": 2}, **shared)
    touched = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** 4)
    read = LAYERS * touched * EXPERT / (0.8 * 307.2e9)
    assert min(seconds(alone), seconds(pair)) > read
    assert seconds(pair) == pytest.approx(seconds(alone), rel=0.1)


@pytest.mark.parametrize("by_expert", [False, True])
def test_ranks_that_share_experts_have_slots_of_their_own(by_expert: bool) -> None:
    engine = {"data_parallel_size": 2, "enable_expert_parallel": by_expert}
    held = EXPERTS // 2 if by_expert else EXPERTS
    plain = seconds(served(ZIPF, engine))
    found = [seconds(served(ZIPF, engine, gpu_expert_slots=n)) for n in (0, held // 2, held)]
    assert found[0] > found[1] > found[2] == plain


def test_waits_are_part_of_every_account() -> None:
    one = served(ZIPF, gpu_expert_slots=32)
    model = one.step_model
    rows = model.cost_breakdown(DECODES)
    assert sum(row.seconds for row in rows) == pytest.approx(seconds(one))
    assert rows[-1].label == "experts from host"
    model.reset()
    total = seconds(one)
    assert sum(model.source_seconds().values()) == pytest.approx(total)
    negative = served(ZIPF, gpu_expert_slots=100, policy="static", compute="host",
                      host="xeon_8480", link={"bandwidth": 1e12, "latency": 0.0})  # fmt: skip
    negative.step_model.reset()
    total = seconds(negative, BatchShape.of_tokens(64))
    found = negative.step_model.source_seconds()
    assert sum(found.values()) == pytest.approx(total)
    assert min(found.values()) >= 0


def test_the_example_reports_what_its_slots_are_worth() -> None:
    power = {"dram": {"picojoules_per_bit": 10.0}, "link": {"picojoules_per_bit": 5.0}}
    got = simulate(Scenario.load(EXAMPLE), power=power)
    assert got.metrics.finished == 40
    assert got.metrics.tpot.p50 == pytest.approx(0.168, rel=0.02)
    summary = summarise(got)["instances"][0]["expert_offload"]
    assert summary["gpu_expert_slots"] == 32
    assert summary["hit_rate"] == pytest.approx(0.424, abs=0.003)
    # Nine of ten predicted in 47 of 48 layers: as many copies in vain as experts not predicted.
    copies = 1 / 48 + 47 / 48 * 1.1
    assert summary["link_bytes"] == pytest.approx(summary["missed_experts"] * EXPERT * copies)
    assert dict(result_facts(got))["expert hits"].startswith("42.4% of those touched")
    assert got.energy is not None
    moved = summary["link_bytes"] * 8e-12
    assert got.energy.components["dram"] == pytest.approx(10 * moved, rel=0.02)
    assert got.energy.components["links"] == pytest.approx(5 * moved, rel=0.02)
    assert got.energy.families["experts from host"] > 0


def test_nothing_is_said_where_all_experts_are_on_the_devices() -> None:
    got = simulate(model=MODEL, hardware="h100_sxm", workload={"num_requests": 2})
    assert "expert_offload" not in summarise(got)["instances"][0]
    assert "expert hits" not in dict(result_facts(got))


@pytest.mark.parametrize(
    ("offload", "error", "message"),
    [
        ({"policy": "lfu"}, InputError, "gpu_expert_slots or gpu_memory_gb is needed"),
        ({"gpu_expert_slots": -1}, InputError, "gpu_expert_slots must not be negative, not -1"),
        ({"gpu_expert_slots": 129}, InputError, "slots 129: a device has 128 experts of a layer"),
        ({"gpu_expert_slots": 1, "gpu_memory_gb": 1.0}, InputError, "not both"),
        ({"gpu_expert_slots": 1, "policy": "mru"}, InputError, "one of 'lru', 'lfu', 'static'"),
        ({"gpu_expert_slots": 1, "prefetch": "next_layer"}, InputError, "belong together"),
        ({"gpu_expert_slots": 1, "prefetch_accuracy": 0.5}, InputError, "belong together"),
        (
            {"gpu_expert_slots": 1, "prefetch": "next_layer", "prefetch_accuracy": 1.5},
            InputError,
            r"in \[0, 1\], not 1.5",
        ),
        ({"gpu_expert_slots": 1, "compute": "host"}, InputError, "'host' needs a host"),
        (
            {"gpu_expert_slots": 1, "compute": "cheaper", "host": "xeon_8480"},
            InputError,
            "needs policy 'lfu' or 'static'",
        ),
        ({"gpu_expert_slots": 1, "host_memory_gb": 32.0}, CapacityError, "54.00 GiB on a host of"),
    ],
)
def test_refused(offload: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        served(**offload)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"model": "meta-llama/Llama-3.1-8B"}, InputError, "has no experts"),
        ({"engine": {"pipeline_parallel_size": 2}}, UnsupportedError, "pipeline_parallel_size"),
        (
            {"engine": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}},
            UnsupportedError,
            "speculative_config",
        ),
        ({"engine": {"cpu_offload_gb": 1.0}}, UnsupportedError, "cpu_offload_gb"),
        ({"placement": {"sub_batches": 2}}, UnsupportedError, r"with \[placement\]"),
    ],
)
def test_refused_together(sections: dict[str, Any], error: type[Exception], message: str) -> None:
    base: dict[str, Any] = {"model": MODEL, "expert_offload": {"gpu_expert_slots": 8}}
    with pytest.raises(error, match=message):
        serve(Scenario.of(hardware="h100_sxm", **{**base, **sections}).instances[0])
