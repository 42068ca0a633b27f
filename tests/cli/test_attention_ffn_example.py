"""The example with attention and FFNs on different devices, and what is refused beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servesim import Result, Scenario, simulate
from servesim.cli.render_deployment import placement_facts
from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.scenario import build

EXAMPLE = Path(__file__).parents[2] / "examples" / "attention-ffn.toml"
SMALL = {"num_requests": 40, "rate": 20.0}


def run(**sections: object) -> Result:
    got = simulate(Scenario.load(EXAMPLE), workload=SMALL, **sections)
    assert got.metrics.finished == SMALL["num_requests"]
    return got


def model_of(**sections: object) -> ScheduledStepModel:
    model = build(Scenario.load(EXAMPLE).changed(**sections)).served[0].step_model
    assert isinstance(model, ScheduledStepModel)
    return model


def decodes(count: int, context: int) -> BatchShape:
    contexts = np.full(count, context, dtype=np.int64)
    return BatchShape((), count, count * context, context, contexts)


def test_experts_are_on_their_own_devices_and_the_cache_on_the_others() -> None:
    got = run()
    served = got.deployment.served[0]
    # 48 layers: 64 of 128 experts, three matrices of 2048 x 768, and the router, in bf16.
    layer = 64 * 3 * 2048 * 768 + 128 * 2048
    assert served.placement.weight_bytes("ffn") == 48 * layer * 2
    assert served.memory.weight_bytes < 3.1e9  # 57 GiB in all
    assert served.memory.kv_cache_bytes > 84e9
    facts = placement_facts(served)
    assert dict(facts)["device"].startswith("4 x NVIDIA H20")
    assert dict(facts)["beside it"] == "ffn, 2 x NVIDIA H100 SXM5 80 GB"
    assert (served.own_devices, served.devices) == (4, 6)
    assert [one.name for one in got.records.instances] == [f"engine/dp{i}" for i in range(4)]
    assert got.energy is None
    rent = simulate(got.scenario, cost={"usd_per_device_hour": 1.0}).cost.usd_per_hour
    assert rent == pytest.approx(6.0)


def test_two_micro_batches_pay_where_attention_takes_as_long() -> None:
    batch = decodes(256, 3000)  # of each worker
    one, two = model_of(placement={"sub_batches": 1}), model_of()
    assert one.seconds(batch) == pytest.approx(sum(one.busy_seconds(batch).values()))
    assert two.seconds(batch) < 0.7 * one.seconds(batch)
    busy = two.busy_seconds(batch)
    assert two.seconds(batch) >= max(busy.values())
    # 256 hidden states of 2048 x 2 bytes over 50 GB/s; each FFN device gets those of two workers.
    token = 2048 * 2
    assert busy["ffn->h20"] == pytest.approx(48 * (2 * 5e-6 + 512 * token / 50e9), rel=0.01)
    assert busy["ffn->h20"] == pytest.approx(busy["h20->ffn"])


def test_the_example_gains_by_it() -> None:
    whole = {"num_requests": 300}
    got = simulate(Scenario.load(EXAMPLE), workload=whole)
    one = simulate(got.scenario, placement={"sub_batches": 1})
    assert got.metrics.tpot.mean < 0.85 * one.metrics.tpot.mean
    assert got.metrics.ttft.mean < 0.5 * one.metrics.ttft.mean


def test_dense_ffns_are_divided_by_columns() -> None:
    got = run(
        model={"id": "meta-llama/Llama-3.1-8B"},
        engine={"enable_expert_parallel": False, "data_parallel_size": 1},
    )
    # 32 layers, three matrices of 4096 x 14336 over two devices.
    weights = got.deployment.served[0].placement.weight_bytes("ffn")
    assert weights == 32 * 3 * 4096 * 14336 * 2 / 2


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"placement": {"ffn": {"device": "h100"}}}, "link"),
        ({"placement": {"ffn": {"count": 0, "link": {"bandwidth": 1e9, "latency": 0}}}}, "count"),
        ({"placement": {"ffn": {"counts": 2, "link": {"bandwidth": 1e9, "latency": 0}}}}, "counts"),
        ({"placement": {"kind": "none"}}, "takes no ffn"),
        ({"placement": {"options": {"ops": {}}}}, "no devices or options"),
        ({"model": {"id": "meta-llama/Llama-3.1-8B"}}, "has no experts"),
        ({"engine": {"pipeline_parallel_size": 2}}, "pipeline_parallel_size"),
        ({"engine": {"all2all_backend": "pplx"}}, "together with all2all_backend 'pplx'"),
        ({"engine": {"speculative_config": {"num_speculative_tokens": 2}}}, "speculative_config"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(sections: dict[str, object], complaint: str) -> None:
    with pytest.raises((InputError, UnsupportedError), match=complaint):
        run(**sections)


def test_ffns_that_do_not_fit_are_refused() -> None:
    ffn = {"device": "l4", "count": 2, "link": {"bandwidth": 1e10, "latency": 0.0}}
    with pytest.raises(CapacityError, match="2 x "):
        run(placement={"ffn": ffn})


def test_between_equal_devices_and_over_no_distance_nothing_changes() -> None:
    link = {"bandwidth": 1e30, "latency": 0.0}
    engine = {"data_parallel_size": 1, "enable_expert_parallel": False}
    apart = model_of(
        hardware="h100_sxm",
        engine=engine,
        placement={"ffn": {"device": "h100_sxm", "link": link}, "sub_batches": 1},
    )
    whole = Scenario.of(model="Qwen/Qwen3-30B-A3B", hardware="h100_sxm", engine=engine)
    plain = build(whole.changed(engine={"max_model_len": 16384})).served[0].step_model
    batch = decodes(64, 1000)
    assert apart.seconds(batch) == pytest.approx(plain.seconds(batch), rel=1e-9)
