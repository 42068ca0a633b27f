"""Every well-known family at full size: exact numbers, and no drift from what was traced before."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from traced_families import FAMILIES, Family

from servesim.graph.opgraph import OpGraph
from servesim.graph.serial import from_dict, to_dict
from servesim.graph.shard import shard
from servesim.graph.summary import flops_per_token
from servesim.graph.unmatched import unmatched
from servesim.models.load import load_graph

GOLDEN = Path(__file__).parents[1] / "graph" / "golden"
#: Mixers outside linear layers hold weights of their own: the match is looser.
STATE_SPACE = 0.003


@cache
def traced(model: str) -> OpGraph:
    return load_graph(model, cache=False)


@pytest.fixture(params=FAMILIES, ids=[f.model for f in FAMILIES])
def family(request: pytest.FixtureRequest) -> Family:
    assert isinstance(request.param, Family)
    return request.param


def test_parameters_are_the_published_ones(family: Family) -> None:
    graph = traced(family.model)
    assert graph.parameters / 1e9 == pytest.approx(family.parameters, rel=0.005)
    if family.active is not None:
        # Published counts round, and some include the embedding's rows.
        table = graph.vocab_size * graph.hidden_size
        low, high = graph.active_parameters / 1e9, (graph.active_parameters + table) / 1e9
        assert low * 0.85 <= family.active <= high * 1.25


def test_operators_hold_every_parameter(family: Family) -> None:
    graph = traced(family.model)
    held = sum(op.spec.weight_elements * count for op, count in graph.weighted_ops())
    assert held == graph.parameters
    assert graph.weight_bytes == graph.operator_weight_bytes


def test_flops_per_token_are_twice_the_active_parameters(family: Family) -> None:
    graph = traced(family.model)
    recurrent = any(op.kind == "recurrent" for op, _ in graph.weighted_ops())
    tolerance = STATE_SPACE if recurrent else 0.001
    assert flops_per_token(graph) == pytest.approx(2 * graph.active_parameters, rel=tolerance)


def test_nothing_known_falls_through(family: Family) -> None:
    strange = unmatched(traced(family.model))
    assert sum(item.flops_share for item in strange) < 0.005
    assert sum(item.bytes_share for item in strange) < 0.005


def test_a_graph_survives_the_disk(family: Family) -> None:
    graph = traced(family.model)
    assert from_dict(json.loads(json.dumps(to_dict(graph)))) == graph


def test_two_ranks_hold_half(family: Family) -> None:
    graph = traced(family.model)
    if family.model == "tiiuae/falcon-7b":
        pytest.skip("71 heads do not divide: see test_shard")
    local = shard(graph, 2)
    assert 0.5 <= local.weight_bytes / graph.weight_bytes < 0.52
    assert local.parameters == graph.parameters


def golden_summary(graph: OpGraph) -> dict[str, object]:
    """What must not change unnoticed: sizes, caches and operators of every block."""
    return {
        "parameters": graph.parameters,
        "active_parameters": graph.active_parameters,
        "caches": [
            [c.kind, len(c.layers), c.bytes_per_token, c.window, c.state_bytes]
            for c in graph.caches
        ],
        "blocks": {
            f"{block.name} x{block.count}": [
                f"{op.name} {op.kind} {'x'.join(map(str, op.spec.shape))}" for op in block.ops
            ]
            for block in graph.blocks
        },
    }


def test_golden_summary(family: Family) -> None:
    file = GOLDEN / f"{family.model.replace('/', '--')}.json"
    summary = golden_summary(traced(family.model))
    if os.environ.get("SERVESIM_WRITE_GOLDEN"):
        file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    assert summary == json.loads(file.read_text(encoding="utf-8"))
