"""Pipeline stages of real models."""

from __future__ import annotations

import pytest

from servesim.errors import UnsupportedError
from servesim.graph.passes.stage import split_stages
from servesim.models.load import load_graph


@pytest.mark.parametrize(
    ("stages", "sizes"),
    [(2, [31, 30]), (3, [20, 21, 20]), (4, [15, 15, 16, 15]), (8, [7, 7, 8, 8, 8, 8, 8, 7])],
)
def test_remainders_go_before_the_last_stage(stages: int, sizes: list[int]) -> None:
    graph = load_graph("deepseek-ai/DeepSeek-V3")
    parts = split_stages(graph, stages)
    assert [part.num_layers for part in parts] == sizes
    assert sum(part.weight_bytes for part in parts) == pytest.approx(graph.weight_bytes)
    assert sum(part.kv_bytes_per_token for part in parts) == graph.kv_bytes_per_token


def test_what_stands_outside_the_layers_is_at_the_ends() -> None:
    parts = split_stages(load_graph("deepseek-ai/DeepSeek-V3"), 4)
    assert [b.name for b in parts[0].blocks] == ["head", "layer.0", "layer.3"]
    assert [b.name for b in parts[1].blocks] == ["layer.3"]
    assert [b.name for b in parts[-1].blocks] == ["layer.3", "tail"]
    assert parts[1].blocks[0].layers == tuple(range(15, 30))


def test_more_stages_than_layers() -> None:
    with pytest.raises(UnsupportedError, match="32 layers cannot make 33"):
        split_stages(load_graph("meta-llama/Llama-3.1-8B"), 33)
