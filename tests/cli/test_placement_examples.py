"""Scenarios on several devices do what they are there to show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from servesim import Result, Scenario, simulate
from servesim.cli.render_deployment import memory_parts, placement_facts
from servesim.cli.render_result import step_rows
from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.runtime.energy.capped import CappedScheduledStepModel
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.runtime.speculative_step import SpeculativeStepModel
from servesim.scenario.typical import typical_steps

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"num_requests": 40}


def run(name: str, **sections: object) -> Result:
    got = simulate(Scenario.load(EXAMPLES / f"{name}.toml"), workload=SMALL, **sections)
    assert got.metrics.finished == SMALL["num_requests"]
    return got


def model_of(got: Result) -> ScheduledStepModel:
    model = got.deployment.served[0].step_model
    assert isinstance(model, ScheduledStepModel)
    return model


def decodes(contexts: np.ndarray) -> BatchShape:
    return BatchShape((), len(contexts), int(contexts.sum()), int(contexts.max()), contexts)


ALONE = {"kind": "none", "devices": []}


def test_attention_in_memory_spares_the_gpu() -> None:
    got = run("gpu-pim")
    served = got.deployment.served[0]
    step = typical_steps(got)[0]
    assert {row.label for row in step.costs if row.device == "pim"} == {"attention"}
    assert dict(placement_facts(served))["beside it"].startswith("pim, Samsung HBM-PIM")
    assert dict(memory_parts(served))["KV cache"] == 0
    assert sum(dict(memory_parts(served)).values()) == served.device.memory.capacity_bytes
    # Nine tenths of the stacks, by 512 KiB a token: 32 layers of 32 heads, keys and values.
    tokens = 0.9 * 25.77e9 / (2 * 32 * 32 * 128 * 2)
    assert served.memory.kv_cache_tokens == pytest.approx(tokens, abs=16)
    alone = run("gpu-pim", placement=ALONE)
    assert got.metrics.tpot.mean == pytest.approx(7.0e-3, rel=0.1)  # as calibrated
    assert got.metrics.tpot.mean < 0.97 * alone.metrics.tpot.mean


def test_a_placement_on_the_gpu_alone_changes_no_bit() -> None:
    there = run("gpu-pim", placement={"options": {"ops": {"attention": "h100_sxm"}}})
    alone = run("gpu-pim", placement=ALONE)
    for name in ("first_token_s", "finished_s"):
        requests = (got.records.requests.column(name) for got in (there, alone))
        assert np.array_equal(*requests)


def test_halves_pay_where_attention_is_long() -> None:
    halves = {"sub_batches": 2}
    llama = {"id": "meta-llama/Llama-3.1-8B"}
    batch = decodes(np.linspace(500, 2500, 128).astype(np.int64))
    one = model_of(run("gpu-pim", model=llama)).seconds(batch)
    two = model_of(run("gpu-pim", model=llama, placement=halves))
    assert two.seconds(batch) < 0.9 * one
    assert two.seconds(batch) >= max(two.busy_seconds(batch).values())


def test_overlap_has_a_line_of_its_own() -> None:
    step = typical_steps(run("gpu-pim", placement={"sub_batches": 2}))[0]
    label, *_, share = step_rows(step)[-1]
    assert label == "overlap"
    assert share < 0
    assert sum(row[-1] for row in step_rows(step)) == pytest.approx(1)


def test_experts_compute_on_the_host() -> None:
    got = run("experts-on-cpu")
    placement = got.deployment.served[0].placement
    # 48 layers of 128 experts, three matrices of 2048 x 768 in bf16.
    assert placement.weight_bytes("cpu") == 48 * 128 * 3 * 2048 * 768 * 2
    assert got.deployment.served[0].memory.weight_bytes < 3.1e9
    batch = decodes(np.full(8, 500))
    busy = model_of(got).busy_seconds(batch)
    # What 8 tokens touch of the experts, read at 80 % of 307 GB/s, and 5 µs a kernel.
    touched = 128 * (1 - (1 - 8 / 128) ** 8)
    read = touched * 3 * 2048 * 768 * 2 / (0.8 * 307.2e9)
    assert busy["cpu"] == pytest.approx(48 * (read + 5e-6), rel=0.01)
    assert got.metrics.output_throughput == pytest.approx(55.0, rel=0.03)
    with pytest.raises(CapacityError):
        run("experts-on-cpu", placement=ALONE)


def test_every_placer_serves_the_example() -> None:
    devices = [
        {"device": "h100_sxm", "name": "second", "link": {"bandwidth": 450e9, "latency": 1e-6}}
    ]
    options = {
        "by_layer": {"layers": {"16-31": "second"}},
        "memory_fit": {"share": 0.1},
        "greedy": {"share": 0.1},
        "min_cost": {"decodes": 4, "context": 256, "share": 0.15},
    }
    for kind, given in options.items():
        got = run("gpu-pim", placement={"kind": kind, "options": given, "devices": devices})
        served = got.deployment.served[0]
        assert served.placement.weight_bytes("second") > 0, kind
        assert model_of(got).busy_seconds(decodes(np.full(8, 500)))["second"] > 0, kind


def test_a_search_leaves_on_the_gpu_what_fits() -> None:
    got = run("experts-min-cost")
    placement = got.deployment.served[0].placement
    # 0.8 of the GPU's memory, of which the contexts of the steps take 8 x 1025 x 96 KiB.
    room = 0.8 * placement.devices["l40s"].memory.capacity_bytes - 8 * 1025 * 96 * 1024
    layer = 128 * 3 * 2 * 2048 * 768
    assert room - layer < placement.weight_bytes("l40s") <= room + 8 * 1025 * 96 * 1024
    whole = run("experts-on-cpu", hardware={"device": "l40s"})
    batch = decodes(np.full(8, 1024))
    assert model_of(got).seconds(batch) < 0.7 * model_of(whole).seconds(batch)
    assert got.metrics.tpot.mean < 0.7 * whole.metrics.tpot.mean
    assert got.metrics.output_throughput == pytest.approx(71.1, rel=0.03)


def test_a_tpu_beside_a_gpu_shares_its_layers() -> None:
    got = run("tpu-beside-gpu")
    placement = got.deployment.served[0].placement
    held = {name: placement.weight_bytes(name) for name in placement.devices}
    assert sum(held.values()) == pytest.approx(placement.graph.weight_bytes)
    assert all(0 < held[name] <= 0.7 * d.memory.capacity_bytes + 1
               for name, d in placement.devices.items())  # fmt: skip
    assert len([block for block in placement.graph.blocks if block.layers]) > 1
    speculative = got.deployment.served[0].step_model
    assert isinstance(speculative, SpeculativeStepModel)
    # A step verifies two drafts beside each latest token.
    batch = replace(decodes(np.full(8, 500)), drafts=2)
    assert speculative.seconds(batch) == pytest.approx(speculative.target.seconds(batch))
    assert got.metrics.tpot.mean == pytest.approx(21.4e-3, rel=0.05)
    given = {"kind": "greedy", "options": {"decodes": 32, "context": 1024, "share": 0.7}}
    greedy = run("tpu-beside-gpu", placement=given)
    assert got.metrics.tpot.mean < 0.95 * greedy.metrics.tpot.mean


def test_a_power_cap_and_a_drafter_go_with_placed_attention() -> None:
    free, capped = run("gpu-pim"), run("gpu-pim", hardware={"power_limit_watts": 300})
    assert isinstance(model_of(capped), CappedScheduledStepModel)
    assert capped.metrics.tpot.mean > 1.02 * free.metrics.tpot.mean
    head = {"method": "eagle", "num_speculative_tokens": 2}
    drafted = run("gpu-pim", engine={"speculative_config": head})
    before, after = (got.deployment.served[0] for got in (free, drafted))
    assert after.memory.weight_bytes > before.memory.weight_bytes
    assert drafted.metrics.tpot.mean < 0.8 * free.metrics.tpot.mean


def test_ranks_that_share_experts_have_hosts_of_their_own() -> None:
    link = {"bandwidth": 3e10, "latency": 1e-5}
    ranks = {"data_parallel_size": 2, "enable_expert_parallel": True}
    got = run("experts-on-cpu", engine=ranks, hardware={"link": link})
    assert got.deployment.served[0].placement.weight_bytes("cpu") == 48 * 64 * 3 * 2048 * 768 * 2
    model, idle = model_of(got), BatchShape((), padded_tokens=8, group_tokens=16)
    # A rank without requests computes for its peer.
    assert 0 < model.busy_seconds(idle)["cpu"] <= model.seconds(idle)


@pytest.mark.parametrize(
    ("placement", "complaint"),
    [
        ({"kind": "by_kin"}, "did you mean 'by_kind'"),
        ({"options": {"op": {}}}, "unknown option of placer"),
        ({"options": {"ops": {"attention": "pimm"}}}, "did you mean 'pim'"),
        ({"sub_batches": 0}, "at least 1"),
        ({"kind": "none"}, "has devices, but no kind"),
        ({"devices": [{"device": "hbm_pim", "speed": 1}]}, "unknown speed"),
        ({"devices": [{"device": "hbm_pim", "name": "h100_sxm"}]}, "two are called"),
        (
            {"devices": [{"device": "hbm_pim", "name": "pim", "to": "moon"}]},
            "unknown device 'moon'",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused(placement: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        run("gpu-pim", placement=placement)


def test_memory_that_computes_serves_no_model_alone() -> None:
    with pytest.raises(UnsupportedError, match=r"hbm_pim is memory .* in \[placement\] devices"):
        simulate(model="meta-llama/Llama-3.2-1B", hardware="hbm_pim")


def test_combinations_that_cannot_be_simulated_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="cpu_offload_gb"):
        run("experts-min-cost", engine={"cpu_offload_gb": 1.0})
