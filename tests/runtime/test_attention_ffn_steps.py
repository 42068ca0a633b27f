"""Steps between attention and FFN devices, against closed forms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from runtime_runs import Given, request

from servesim.errors import CapacityError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.passes.attention_ffn import first_layer_apart, halves, joined
from servesim.graph.shard import shard
from servesim.graph.work import AttentionWork, GemmWork, Work
from servesim.hardware.attention_ffn import AttentionFfnPlacement, Sides
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.link import Link
from servesim.runtime.attention_ffn_step import AttentionFfnStepModel
from servesim.runtime.cluster import simulate
from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.records import Status

WIDTH, LAYERS = 512, 24
PEERS = Link("peers", 1e12, 0.0)
GPU = Device("gpu", "gpu", {"bf16": 1e14}, MemoryTier("HBM", 1e11, 1e12), scale_up=PEERS)


@dataclass(frozen=True)
class Null:
    """Attention takes ``attention_s``, the last product of an FFN ``ffn_s``, and all else nothing.

    Attributes:
        per_token: whether the FFN's is for each token.
    """

    attention_s: float = 0.0
    ffn_s: float = 0.0
    per_token: bool = False

    def cost(self, work: Work) -> Cost:
        seconds = 0.0
        if isinstance(work, AttentionWork):
            seconds = self.attention_s
        elif isinstance(work, GemmWork) and work.label == "down_proj":
            seconds = self.ffn_s * (work.m if self.per_token else 1)
        return Cost(seconds, Source.ANALYTICAL)


def graph() -> OpGraph:
    ops = (
        Op("qkv_proj", Gemm(768, WIDTH), (STREAM,)),
        Op("attention", Attention(8, 2, 64, 64), ("qkv_proj",)),
        Op("o_proj", Gemm(WIDTH, WIDTH), ("attention",)),
        Op("up_proj", Gemm(2048, WIDTH), ("o_proj",)),
        Op("act_fn", Pointwise("activation", 2048, 2048), ("up_proj",)),
        Op("down_proj", Gemm(WIDTH, 2048), ("act_fn",)),
    )
    blocks = (
        Block("head", (Op("embedding", Embedding(1000, WIDTH)),)),
        Block("layer", ops, tuple(range(LAYERS))),
        Block("tail", (Op("lm_head", LmHead(1000, WIDTH), (STREAM,)),)),
    )
    return OpGraph("toy", blocks, (), 0, 0, 0.0, WIDTH, 1000, 4096)


def model(
    costs: Null,
    parts: int,
    *,
    link: Link = Link("wire", 1e30, 0.0),  # noqa: B008
    sides: Sides = Sides(1, 1, 1),  # noqa: B008
    gpu: Device = GPU,
) -> AttentionFfnStepModel:
    whole = first_layer_apart(graph())
    whole = replace(whole, weight_bytes=whole.operator_weight_bytes)
    attention, ffn = halves(whole)
    made = joined(
        whole, shard(attention, sides.ranks), shard(ffn, sides.ffn_devices), sides.workers
    )
    placement = AttentionFfnPlacement.of(
        made, (gpu, gpu), link, sides, {"gpu": costs, "ffn": costs}, collectives=costs
    )
    return AttentionFfnStepModel(placement, sub_batches=parts)


def decodes(count: int, **more: int) -> BatchShape:
    return BatchShape((), count, count, 1, np.ones(count, np.int64), **more)


def test_one_batch_waits_for_each_half_and_each_way() -> None:
    token = WIDTH * 2
    wire = Link("wire", 1e6, 1e-3)
    got = model(Null(0.02, 0.03), 1, link=wire).seconds(decodes(10))
    way = 1e-3 + 10 * token / 1e6
    assert got == pytest.approx(LAYERS * (0.02 + 0.03 + 2 * way))


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize(("attention_s", "ffn_s"), [(0.02, 0.02), (0.02, 0.03), (0.03, 0.02)])
def test_micro_batches_keep_the_slower_side_busy(
    parts: int, attention_s: float, ffn_s: float
) -> None:
    """The slower side works all the time but for the first half layer or the last."""
    got = model(Null(attention_s, ffn_s), parts).seconds(decodes(12))
    fill = min(attention_s, ffn_s)
    assert got == pytest.approx(LAYERS * parts * max(attention_s, ffn_s) + fill)


def test_a_third_micro_batch_hides_the_way() -> None:
    """Of m micro-batches of T on each side there is time (m - 2) T / 2 for each way."""
    sides_s, way = Null(0.02, 0.02), Link("wire", 1e30, 0.01)
    three = model(sides_s, 3, link=way).seconds(decodes(12))
    assert three == pytest.approx(LAYERS * 3 * 0.02 + 0.02 + 2 * 0.01)
    two = model(sides_s, 2, link=way).seconds(decodes(12))
    assert two == pytest.approx(LAYERS * (2 * 0.02 + 2 * 0.01) + 0.02)


def test_more_workers_than_ffn_devices_make_the_ffn_wait_no_longer() -> None:
    """The FFN's time grows with the workers; until it is that of attention, it is hidden."""
    costs = Null(0.04, 0.001, per_token=True)  # 10 tokens of a worker in two parts: 5 ms
    for workers, expected in ((1, 0.04), (4, 0.04), (8, 0.04), (16, 0.08)):
        got = model(costs, 2, sides=Sides(workers, 1, 1)).seconds(decodes(10))
        fill = min(0.04, 0.005 * workers)
        assert got == pytest.approx(LAYERS * 2 * expected + fill)


def test_the_busiest_link_sets_the_pace() -> None:
    """Each device sends or receives its share: 8 tokens of a worker, 32 of all."""
    token, wire = WIDTH * 2, Link("wire", 1e5, 0.0)  # collectives over 1 TB/s do not count
    for ranks, devices, tokens in ((1, 1, 32), (1, 4, 8), (2, 4, 8), (2, 8, 4), (1, 8, 8)):
        got = model(Null(), 1, link=wire, sides=Sides(4, ranks, devices)).seconds(decodes(8))
        assert got == pytest.approx(LAYERS * 2 * tokens * token / 1e5, rel=1e-4)


def test_what_others_send_is_known_in_lock_step() -> None:
    costs = Null(0.0, 0.001, per_token=True)
    three = model(costs, 1, sides=Sides(3, 1, 1))
    assert three.seconds(decodes(4)) == pytest.approx(LAYERS * 0.012)
    known = decodes(4, padded_tokens=4, group_tokens=9)
    assert three.seconds(known) == pytest.approx(LAYERS * 0.009)
    # One sequence cannot be cut, but the others' tokens still come in two parts.
    halves_of = model(costs, 2, sides=Sides(3, 1, 1))
    assert halves_of.seconds(decodes(1, padded_tokens=1, group_tokens=9)) == pytest.approx(
        LAYERS * 0.010
    )


def test_the_kv_cache_and_the_ffn_share_no_memory() -> None:
    placement = model(Null(), 2, sides=Sides(4, 2, 2)).placement
    layer = 768 * WIDTH + WIDTH * WIDTH
    assert placement.weight_bytes("ffn") == LAYERS * 2 * 2048 * WIDTH * 2 / 2
    assert placement.weight_bytes("gpu") == (LAYERS * layer + 2 * 1000 * WIDTH) * 2 / 2
    small = replace(GPU, memory=MemoryTier("HBM", 4e7, 1e12))
    with pytest.raises(CapacityError, match="on each of 2 x ffn"):
        model(Null(), 2, sides=Sides(1, 1, 2), gpu=small)


def test_ffn_devices_need_a_link_among_them() -> None:
    with pytest.raises(UnsupportedError, match="2 FFN devices"):
        model(Null(), 2, sides=Sides(1, 1, 2), gpu=replace(GPU, scale_up=None))


@pytest.mark.parametrize("seed", range(40))
def test_generated_deployments_answer_every_request(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = Sides(*(int(rng.choice(n)) for n in ((1, 2, 3, 5), (1, 2), (1, 2, 4))))
    costs = Null(float(rng.random()), float(rng.random()), per_token=bool(rng.integers(2)))
    step_model = model(costs, int(rng.integers(1, 5)), link=Link("w", 1e5, 0.01), sides=sides)
    config = EngineConfig(
        max_num_seqs=int(rng.integers(1, 9)),
        max_num_batched_tokens=int(rng.integers(64, 100)),
        enforce_eager=bool(rng.integers(2)),
        async_scheduling=bool(rng.integers(2)),
    )
    workers = [
        Instance(config, step_model, int(rng.integers(10, 40)), f"e/dp{i}", wave="e")
        for i in range(sides.workers)
    ]
    if sides.workers == 1:
        workers = [replace(workers[0], wave="")]
    times = np.sort(rng.exponential(50, int(rng.integers(1, 20))))
    given = [
        request(i, float(time), int(rng.integers(1, 140)), int(rng.integers(1, 20)))
        for i, time in enumerate(times)
    ]
    got = simulate(Given(given), workers).requests
    status = got.column("status")
    assert ((status == Status.FINISHED) | (status == Status.REJECTED)).all()
    assert len(got.reasons) == (status == Status.REJECTED).sum()
    done = status == Status.FINISHED
    assert (got.column("arrival_s")[done] < got.column("first_token_s")[done]).all()
