"""Operators as a model's own modules run them, in continuous batching without paged kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from servesim.errors import UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.gemm import Gemm, Part
from servesim.graph.passes.unfuse import unfuse
from servesim.hardware.load import load_device
from servesim.hardware.placement import Placement
from servesim.models.config import resolve
from servesim.models.load import load_graph
from servesim.runtime.config import EngineConfig
from servesim.runtime.energy.use import compile_use
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.build import load_model
from servesim.scenario.sections import ModelSection

LLAMA = "meta-llama/Llama-3.2-1B"  # 32 heads of 64, 8 KV heads, width 2048, FFN 8192
#: Two decodes after 10 and 20 tokens, and the first three tokens of a prompt.
BATCH = BatchShape(((3, 0),), 2, 30, 20, np.array([10, 20]))


@pytest.fixture(scope="module")
def graph() -> OpGraph:
    return load_graph(LLAMA)


def layer(graph: OpGraph) -> dict[str, Op]:
    block = next(block for block in graph.blocks if block.layers)
    return {op.name: op for op in block.ops}


def test_linear_layers_run_one_by_one_and_hold_the_same_weights(graph: OpGraph) -> None:
    ops = layer(unfuse(graph))
    assert {name: op.spec.shape for name, op in ops.items() if op.kind == "gemm"} == {
        "q_proj": (2048, 2048),
        "k_proj": (512, 2048),
        "v_proj": (512, 2048),
        "o_proj": (2048, 2048),
        "gate_proj": (8192, 2048),
        "up_proj": (8192, 2048),
        "down_proj": (2048, 8192),
    }
    assert unfuse(graph).operator_weight_bytes == graph.operator_weight_bytes


def test_every_new_token_meets_the_keys_of_all_sequences(graph: OpGraph) -> None:
    work = layer(unfuse(graph))["attention"].work(BATCH)
    # 5 new tokens under a mask of 5 by 35: 4 FLOP a pair, head and element of 64
    assert work.flops == 4 * 32 * 64 * 5 * 35
    paged = layer(graph)["attention"].work(BATCH)
    assert paged.flops == 4 * 32 * 64 * (11 + 21 + 1 + 2 + 3)


def test_one_decode_alone_costs_what_paged_attention_does(graph: OpGraph) -> None:
    alone = BatchShape((), 1, 40, 40, np.array([40]))
    assert layer(unfuse(graph))["attention"].work(alone).flops == 4 * 32 * 64 * 41


@pytest.mark.parametrize(
    "batch",
    [BATCH, BatchShape(((6, 0),)), BatchShape((), 4, 100, 40), BatchShape(((4, 3), (3, 0)))],
)
def test_keys_are_read_once_for_each_head(graph: OpGraph, batch: BatchShape) -> None:
    work = layer(unfuse(graph))["attention"].work(batch)
    keys = batch.tokens + batch.decode_context + sum(context for _, context in batch.prefills)
    assert (work.kv_heads, work.causal) == (32, False)
    # keys and values of 32 heads, and the queries, of 64 elements of two bytes
    assert work.bytes_read == 32 * 64 * 2 * (2 * keys + batch.tokens)
    assert work.flops == 4 * 32 * 64 * batch.tokens * keys


def test_decodes_alone_are_priced_by_all_keys_too(graph: OpGraph) -> None:
    placement = Placement.tensor_parallel(unfuse(graph), load_device("h100_sxm"))
    model = CompiledStepModel.compile(placement)
    batch = BatchShape((), 8, 7200, 900)
    assert model.decode_seconds(8, 7200, 900) == pytest.approx(model.seconds(batch), rel=1e-12)


def test_power_of_an_unfused_model_is_refused(graph: OpGraph) -> None:
    placement = Placement.tensor_parallel(unfuse(graph), load_device("h100_sxm"))
    with pytest.raises(UnsupportedError, match="not known of fused = false"):
        compile_use(placement)


def test_layers_of_equal_names_are_numbered(graph: OpGraph) -> None:
    block = next(block for block in graph.blocks if block.layers)
    parts = (Part("a.proj", 8, 8), Part("b.proj", 8, 8), Part("a.proj", 16, 16))
    ops = (Op("merged", Gemm(32, 16, parts=parts), (STREAM,)), Op("proj", Gemm(8, 32), ("merged",)))
    found = unfuse(replace(graph, blocks=(replace(block, ops=ops, layers=()),)))
    first, second, last = found.blocks[0].ops
    assert [(op.name, op.label, op.spec.shape) for op in (first, second)] == [
        ("proj.2", "proj", (24, 16)),
        ("proj.3", "proj", (8, 16)),
    ]
    assert last.inputs == ("proj.2", "proj.3")
    less = replace(ops[0], spec=replace(ops[0].spec, n=40))
    with pytest.raises(UnsupportedError, match="parts of merged have 32 columns, not 40"):
        unfuse(replace(graph, blocks=(replace(block, ops=(less,), layers=()),)))


@pytest.mark.parametrize("option", [{"chunk": 64}, {"selected": 64}, {"latent": True}])
def test_other_attention_is_refused(graph: OpGraph, option: dict[str, object]) -> None:
    block = next(block for block in graph.blocks if block.layers)
    ops = tuple(
        replace(op, spec=replace(op.spec, **option)) if op.kind == "attention" else op
        for op in block.ops
    )
    others = tuple(replace(b, ops=ops) if b is block else b for b in graph.blocks)
    with pytest.raises(UnsupportedError, match="not full attention"):
        unfuse(replace(graph, blocks=others))


def test_other_caches_are_refused(graph: OpGraph) -> None:
    with pytest.raises(UnsupportedError, match="kind 'state', not 'full'"):
        unfuse(replace(graph, caches=(replace(graph.caches[0], kind="state"),)))


def test_an_eight_bit_cache_is_copied_in_eight_bits() -> None:
    section = ModelSection(LLAMA, fused=False)
    found = load_model(resolve(LLAMA), section, EngineConfig(kv_cache_dtype="fp8"))
    assert layer(found)["attention_gather"].work(BATCH).bytes_read == 8 * 35 * 2 * 64


def test_keys_are_gathered_and_repeated_for_each_head(graph: OpGraph) -> None:
    ops = layer(unfuse(graph))
    gather, repeat = ops["attention_gather"].work(BATCH), ops["attention_repeat"].work(BATCH)
    each = 35 * 2 * 64 * 2  # keys, K and V, elements, bytes
    assert (gather.bytes_read, gather.bytes_written) == (8 * each, 8 * each)
    assert (repeat.bytes_read, repeat.bytes_written) == (8 * each, 32 * each)


def test_windows_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="not full attention"):
        unfuse(load_graph("google/gemma-3-1b-it"))
