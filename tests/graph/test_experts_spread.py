"""Experts over ranks: what each holds, sees and sends; loads against closed forms and draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.expert_placement import place_experts
from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.exchange import Exchange
from servesim.graph.ops.experts import PooledExperts
from servesim.graph.passes.expert import ExpertOptions, spread_experts
from servesim.graph.routing import ROUTINGS
from servesim.graph.routing.recorded import Recorded
from servesim.graph.routing.uniform import Uniform
from servesim.graph.routing.zipf import Zipf, drawn_without_replacement
from servesim.models.load import load_graph

MODEL = "Qwen/Qwen3-30B-A3B"
EXPERTS, TOP_K, LAYERS, HIDDEN, WIDTH = 128, 8, 48, 2048, 768  # its config.json
ALL_EXPERTS = LAYERS * EXPERTS * 3 * HIDDEN * WIDTH * 2  # bytes, bf16


def spread(tp: int = 1, **options: object) -> OpGraph:
    by_expert = bool(options.get("enable_expert_parallel"))
    graph = load_graph(MODEL, tensor_parallel_size=tp, enable_expert_parallel=by_expert)
    return spread_experts(graph, ExpertOptions(**options))  # type: ignore[arg-type]


def experts_of(graph: OpGraph) -> PooledExperts:
    (spec,) = (op.spec for op, _ in graph.weighted_ops() if isinstance(op.spec, PooledExperts))
    return spec


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("dp", [1, 2, 4])
@pytest.mark.parametrize("by_expert", [False, True])
def test_a_device_holds_its_share_of_the_experts(tp: int, dp: int, by_expert: bool) -> None:
    alone = load_graph(MODEL, tensor_parallel_size=tp)
    graph = spread(tp, data_parallel_size=dp, enable_expert_parallel=by_expert)
    others = alone.weight_bytes - ALL_EXPERTS / tp
    assert graph.weight_bytes == pytest.approx(others + ALL_EXPERTS / (tp * dp))
    kinds = [op.spec.operation for op, _ in graph.weighted_ops() if isinstance(op.spec, Exchange)]
    assert kinds == (["all_gather", "reduce_scatter"] if dp > 1 else [])


def test_exchanges_carry_the_tokens_of_all_ranks() -> None:
    graph = spread(data_parallel_size=4, enable_expert_parallel=True)
    out = next(op for op, _ in graph.weighted_ops() if isinstance(op.spec, Exchange))
    assert out.work(BatchShape.of_tokens(10)).bytes_read == 4 * 10 * HIDDEN * 2
    assert out.work(BatchShape(group_tokens=25)).bytes_read == 25 * HIDDEN * 2


def test_all_to_all_sends_a_token_once_to_each_rank_that_has_an_expert_of_it() -> None:
    graph = spread(
        data_parallel_size=4, enable_expert_parallel=True, all2all_backend="deepep_low_latency"
    )
    out = next(op.spec for op, _ in graph.weighted_ops() if isinstance(op.spec, Exchange))
    assert out.operation == "all_to_all"
    # Without replacement: 4 ranks x (1 - C(96, 8) / C(128, 8)).
    apart = np.prod([(96 - i) / (128 - i) for i in range(8)])
    assert out.copies == pytest.approx(4 * (1 - apart))
    assert experts_of(graph).work(BatchShape.of_tokens(64), "").tokens < 4 * 64


def test_uniform_routing_touches_what_the_closed_form_says() -> None:
    load = place_experts(Uniform().chances(1, EXPERTS, 1), 1)
    for tokens in (1, 7, 300):
        # One expert a token: E (1 - (1 - 1/E)^pairs).
        expected = EXPERTS * (1 - (1 - 1 / EXPERTS) ** tokens)
        assert load.touched(tokens) == pytest.approx(expected)
        assert load.pairs(tokens) == pytest.approx(tokens)


@pytest.mark.parametrize("exponent", [0.0, 0.8])
@pytest.mark.parametrize("tokens", [16, 256])
def test_the_busiest_rank_is_that_of_random_draws(exponent: float, tokens: int) -> None:
    rng = np.random.default_rng(0)
    chances = Zipf(exponent).chances(1, 32, 4)
    load = place_experts(chances, 8)
    weights = -np.log1p(-chances[0])  # exponential clocks that give these chances
    most, touched = [], []
    for _ in range(2000):
        rings = rng.exponential(1 / weights, (tokens, 32))
        counts = np.bincount(np.argsort(rings, axis=1)[:, :4].ravel(), minlength=32)
        by_rank = counts.reshape(8, 4)
        busiest = int(chances[0].reshape(8, 4).sum(axis=1).argmax())
        most.append(by_rank.sum(axis=1).max())
        touched.append(np.count_nonzero(by_rank[busiest]))
    assert load.pairs(tokens) == pytest.approx(np.mean(most), rel=0.05)
    assert load.touched(tokens) == pytest.approx(np.mean(touched), rel=0.05)


def test_loads_even_out_with_tokens_and_with_balance() -> None:
    uniform = place_experts(Uniform().chances(1, EXPERTS, TOP_K), 8)
    assert uniform.imbalance(8) > uniform.imbalance(256) > uniform.imbalance(100_000) > 1
    assert uniform.imbalance(100_000) == pytest.approx(1, abs=0.01)
    skewed = Zipf(1.0).chances(4, EXPERTS, TOP_K)
    naive = place_experts(skewed, 8).imbalance(4096)
    packed = place_experts(skewed, 8, enable_eplb=True).imbalance(4096)
    spare = place_experts(skewed, 8, enable_eplb=True, num_redundant_experts=32).imbalance(4096)
    assert naive > packed > spare > 1
    assert spare < 1.05


def test_replicas_are_held_and_share_their_load() -> None:
    options = {"enable_expert_parallel": True, "enable_eplb": True, "num_redundant_experts": 32}
    graph = spread(data_parallel_size=8, **options)
    spec = experts_of(graph)
    assert spec.held == (128 + 32) // 8
    assert spec.load is not None
    for layer in spec.load.chosen:
        assert sum(sum(rank) for rank in layer) == pytest.approx(TOP_K)


def test_correlated_layers_keep_their_popular_experts() -> None:
    def kept(correlation: float) -> float:
        rows = Zipf(1.0, correlation).chances(40, 64, 4)
        return float(np.mean(rows[1:] == rows[:-1]))

    assert kept(1.0) == 1.0
    assert kept(0.0) < 0.1 < kept(0.5) < 0.7

    # Over all layers together the load is even only if they are independent.
    def overall(correlation: float) -> float:
        by_rank = Zipf(1.0, correlation).chances(40, 64, 4).sum(axis=0).reshape(8, 8).sum(axis=1)
        return float(by_rank.max() / by_rank.mean())

    assert overall(1.0) > overall(0.0)


def test_chances_add_up_and_none_exceeds_one() -> None:
    for count in (1, 3, 8):
        found = drawn_without_replacement(np.arange(1, 9) ** -2.0, count)
        assert found.sum() == pytest.approx(count)
        assert found.max() <= 1 + 1e-9


def test_recorded_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("10,20,30,40\n25,25,25,25\n")
    chances = Recorded(path).chances(2, 4, 2)
    assert chances[0] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert chances[1] == pytest.approx([0.5] * 4)
    with pytest.raises(InputError, match="counts 4 experts in 2 layers; the model has 4 in 3"):
        Recorded(path).chances(3, 4, 2)
    path.write_text("100,1,1,1\n")
    with pytest.raises(InputError, match="2 different experts"):
        Recorded(path).chances(1, 4, 2)
    path.write_text("a,b\n")
    with pytest.raises(InputError, match="could not convert"):
        Recorded(path).chances(1, 4, 2)
    with pytest.raises(InputError, match="No such file"):
        Recorded(tmp_path / "gone.csv").chances(1, 4, 2)


def test_what_does_not_go_is_refused_in_one_line() -> None:
    with pytest.raises(UnsupportedError, match="128 experts do not divide among 3 ranks"):
        spread(data_parallel_size=3, enable_expert_parallel=True)
    with pytest.raises(UnsupportedError, match="do not divide"):
        spread(data_parallel_size=5)
    with pytest.raises(InputError, match="enable_eplb"):
        spread(enable_expert_parallel=True, num_redundant_experts=8)
    with pytest.raises(InputError, match="none of"):
        ExpertOptions(all2all_backend="carrier_pigeon")
    with pytest.raises(InputError, match="enable_expert_parallel"):
        ExpertOptions(enable_eplb=True)
    with pytest.raises(UnknownNameError):
        ROUTINGS.get("zip")
    with pytest.raises(InputError, match="exponent"):
        Zipf(-1.0)
