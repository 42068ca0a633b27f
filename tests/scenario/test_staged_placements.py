"""Placements of the stages of a pipeline, against closed forms and the plain pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servesim import Result, simulate
from servesim.cli.render_deployment import memory_parts, placement_facts
from servesim.errors import CapacityError, InputError, UnknownNameError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.work import AttentionWork, GemmWork, Work
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.placement import Placement
from servesim.runtime.config import EngineConfig
from servesim.runtime.parallel.stages import StagedStepModel
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.parallel import hop_seconds, stage_placements
from servesim.scenario.placing import placed, scheduled
from servesim.scenario.sections import HardwareSection, PlacementSection

WIDTH, LAYERS = 512, 8
PEERS = Link("peers", 1e10, 1e-6)
GPU = Device("gpu", "gpu", {"bf16": 1e13}, MemoryTier("HBM", 1e10, 1e11), scale_up=PEERS)
BESIDE = {"device": "xeon_8480", "name": "beside", "link": {"bandwidth": 1e9, "latency": 1e-4}}


@dataclass(frozen=True)
class Null:
    """A product takes ``gemm_s``, attention ``attention_s``, and all else nothing."""

    gemm_s: float
    attention_s: float

    def cost(self, work: Work) -> Cost:
        kinds = ((GemmWork, self.gemm_s), (AttentionWork, self.attention_s))
        seconds = next((seconds for kind, seconds in kinds if isinstance(work, kind)), 0.0)
        return Cost(seconds, Source.ANALYTICAL)


def graph(layers: int = LAYERS) -> OpGraph:
    ops = (
        Op("qkv_proj", Gemm(768, WIDTH), (STREAM,)),
        Op("attention", Attention(8, 2, 64, 64), ("qkv_proj",)),
        Op("o_proj", Gemm(WIDTH, WIDTH), ("attention",)),
        Op("down_proj", Gemm(WIDTH, WIDTH), ("o_proj",)),
    )
    blocks = (
        Block("head", (Op("embedding", Embedding(1000, WIDTH)),)),
        Block("layer", ops, tuple(range(layers))),
        Block("tail", (Op("lm_head", LmHead(1000, WIDTH), (STREAM,)),)),
    )
    made = OpGraph("toy", blocks, (), 0, 0, 0.0, WIDTH, 1000, 4096)
    return replace(made, weight_bytes=made.operator_weight_bytes)


def section(kind: str = "by_kind", **options: object) -> PlacementSection:
    return PlacementSection(kind, options, (BESIDE,))


def stages_of(
    how: PlacementSection, stages: int, device: Device = GPU, layers: int = LAYERS
) -> tuple[Placement, ...]:
    engine = EngineConfig(pipeline_parallel_size=stages)
    return placed(how, graph(layers), device, None, None, engine)


def model(stages: tuple[Placement, ...], parts: int = 1) -> StagedStepModel:
    how = PlacementSection(sub_batches=parts)
    found = scheduled(how, stages, HardwareSection(), EngineConfig(enforce_eager=True))
    assert isinstance(found, StagedStepModel)
    return found


def decodes(count: int) -> BatchShape:
    return BatchShape((), count, count * 100, 100, np.full(count, 100))


BATCHES = st.builds(
    lambda decoding, prefills: replace(decodes(decoding), prefills=tuple(prefills)),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(2, 300), st.integers(0, 900)), max_size=3),
)


@given(BATCHES, st.integers(2, 5))
@settings(deadline=None, max_examples=40)
def test_stages_on_one_device_each_are_the_plain_pipeline(batch: BatchShape, stages: int) -> None:
    def alone(stage: OpGraph, number: int) -> Placement:
        return Placement.tensor_parallel(stage, GPU)

    placements = stage_placements(graph(), stages, alone)
    plain = StagedStepModel(
        tuple(CompiledStepModel(one) for one in placements), hop_seconds(placements[0])
    )
    got = model(placements)
    assert got.stage_seconds(batch) == pytest.approx(plain.stage_seconds(batch), rel=1e-12)
    assert got.seconds(batch) == pytest.approx(plain.seconds(batch), rel=1e-12)


@pytest.mark.parametrize(("stages", "sizes"), [(2, (4, 4)), (3, (3, 3, 2))])
def test_attention_beside_every_stage_is_a_closed_form(stages: int, sizes: tuple[int, ...]) -> None:
    costs = {"gpu": Null(2e-3, 99.0), "beside": Null(99.0, 5e-3)}
    found = tuple(
        replace(one, costs={name: costs[name.split("/")[0]] for name in one.devices})
        for one in stages_of(section(ops={"attention": "beside"}), stages)
    )
    assert [set(one.devices) for one in found] == [
        {f"gpu/pp{i}", f"beside/pp{i}"} for i in range(stages)
    ]
    tokens, got = 10, model(found)
    ways = 2 * 1e-4 + tokens * (768 + WIDTH) * 2 / 1e9  # there and back
    layer = 3 * 2e-3 + 5e-3 + ways
    head = [0.0] * (stages - 1) + [2e-3]
    expected = [size * layer + more for size, more in zip(sizes, head, strict=True)]
    assert got.stage_seconds(decodes(tokens)) == pytest.approx(expected, rel=1e-12)
    hop = hop_seconds(found[0])(tokens)
    assert hop > 2 * tokens * WIDTH * 2 / 1e10
    assert got.seconds(decodes(tokens)) == pytest.approx(sum(expected) + (stages - 1) * hop)


@given(
    st.lists(st.sampled_from(["gpu", "beside"]), min_size=4, max_size=4), BATCHES, st.integers(2, 4)
)
@settings(deadline=None, max_examples=40)
def test_stages_take_together_what_the_whole_takes(
    names: list[str], batch: BatchShape, stages: int
) -> None:
    """Wherever operators are: a stage ends and begins on the instance's own kind of device."""
    names_of = ("qkv_proj", "attention", "o_proj", "down_proj")
    how = section(ops={**dict(zip(names_of, names, strict=True)), "lm_head": "beside"})
    whole, split = stages_of(how, 1), model(stages_of(how, stages))
    seconds = ScheduledStepModel(whole[0]).seconds(batch)
    if names[0] == names[-1] == "beside":  # each boundary is a way back and forth
        payload = batch.tokens * WIDTH * 2
        seconds += (stages - 1) * 2 * (1e-4 + payload / 1e9)
    assert sum(split.stage_seconds(batch)) == pytest.approx(seconds, rel=1e-9)


def test_layers_are_those_of_the_whole_model() -> None:
    first, second = stages_of(section("by_layer", layers={"2-4": "beside"}), 2)
    layers = {
        one.default: sorted(
            layer
            for block in one.graph.blocks
            if one.name_of(block, block.ops[0]).startswith("beside")
            for layer in block.layers
        )
        for one in (first, second)
    }
    assert layers == {"gpu/pp0": [2, 3], "gpu/pp1": [4]}
    # Each ends or begins on the GPU: to and fro once in both.
    assert [t.ends for t in first.transfers] == [
        ("gpu/pp0", "beside/pp0"), ("beside/pp0", "gpu/pp0")
    ]  # fmt: skip
    assert [t.count for t in second.transfers] == [1, 1]
    with pytest.raises(InputError, match="layers 0 to 7"):
        stages_of(section("by_layer", layers={"2-9": "beside"}), 2)
    with pytest.raises(UnknownNameError, match="did you mean 'attention'"):
        stages_of(section(ops={"atention": "beside"}), 2)


@pytest.mark.parametrize("kind", ["memory_fit", "greedy", "min_cost"])
def test_placers_that_fill_memories_fill_those_of_each_stage(kind: str) -> None:
    layer = sum(op.spec.weight_bytes for op in graph().blocks[1].ops)
    small = replace(GPU, memory=MemoryTier("HBM", 3.5 * layer, 1e12))
    options: dict[str, object] = {"share": 0.9}
    if kind != "memory_fit":
        options |= {"decodes": 4, "context": 10}
    found = stages_of(section(kind, **options), 3, small, 12)
    for one in found:
        assert 0 < one.weight_bytes(one.default) <= 0.9 * small.memory.capacity_bytes
    held = sum(one.weight_bytes(name) for one in found for name in one.devices)
    assert held == pytest.approx(graph(12).weight_bytes)
    assert any(one.weight_bytes(name) for one in found for name in one.devices
               if name.startswith("beside"))  # fmt: skip
    assert model(found).seconds(decodes(8)) > 0


def run(**engine: object) -> Result:
    result = simulate(
        model="Qwen/Qwen1.5-7B",
        hardware="h100_sxm",
        engine={"max_model_len": 8192, **engine},
        placement={
            "kind": "by_kind",
            "options": {"ops": {"attention": "pim"}},
            "devices": [{"device": "hbm_pim", "name": "pim",
                         "link": {"bandwidth": 450e9, "latency": 1e-6}}],
        },
        workload={"kind": "poisson", "rate": 20, "num_requests": 30, "prompt_tokens": 300,
                  "output_tokens": 20},
    )  # fmt: skip
    assert result.metrics.finished == 30
    return result


def test_attention_in_memory_beside_every_stage() -> None:
    one, two = (run(pipeline_parallel_size=stages) for stages in (1, 2))
    alone, split = (result.deployment.served[0] for result in (one, two))
    assert split.devices == 2
    # Each stage keeps half the layers' KV in a memory of its own.
    tokens = split.memory.kv_cache_tokens / alone.memory.kv_cache_tokens
    assert tokens == pytest.approx(2, rel=1e-3)
    beside = [value for name, value in placement_facts(split) if name == "beside it"]
    assert [words.split(",")[0] for words in beside] == ["pim/pp0", "pim/pp1"]
    assert dict(memory_parts(split))["KV cache"] == 0
    step, batch = split.step_model, decodes(8)
    assert isinstance(step, StagedStepModel)
    whole = alone.step_model.seconds(batch)
    assert sum(step.stage_seconds(batch)) == pytest.approx(whole, rel=0.02)
    assert two.metrics.tpot.mean > 0.9 * one.metrics.tpot.mean
    rows = step.cost_breakdown(batch)
    assert {row.device for row in rows if row.label == "attention"} == {"pim/pp0", "pim/pp1"}
    assert sum(row.seconds for row in rows) == pytest.approx(step.seconds(batch))


def test_a_pipeline_serves_what_no_device_holds() -> None:
    sections: dict[str, object] = {
        "model": "meta-llama/Llama-3.1-70B",
        "hardware": "h100_sxm",
        "workload": {"kind": "poisson", "rate": 2, "num_requests": 5, "prompt_tokens": 100,
                     "output_tokens": 5},
    }  # fmt: skip
    engine = {"max_model_len": 4096}
    got = simulate(**sections, engine={**engine, "pipeline_parallel_size": 2})
    assert got.metrics.finished == 5
    with pytest.raises(CapacityError):
        simulate(**sections, engine=engine)
