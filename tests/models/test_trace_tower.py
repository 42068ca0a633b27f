"""Multimodal checkpoints: the language model alone, and the vision tower by itself."""

from __future__ import annotations

import pytest

from servesim.graph.batch import BatchShape
from servesim.graph.ops.attention import Attention
from servesim.graph.unmatched import unmatched
from servesim.models.load import load_graph, load_tower

#: Parameters of the tower in millions, patches of one image.
TOWERS = {
    "google/gemma-3-4b-it": (417, 4096),  # SigLIP-So400m at 896 pixels
    "llava-hf/llava-1.5-7b-hf": (304, 576),  # CLIP ViT-L/14 at 336 pixels
    "Qwen/Qwen2.5-VL-7B-Instruct": (677, 1024),
    "Qwen/Qwen3-VL-8B-Instruct": (576, 784),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": (403, 12100),
}


@pytest.mark.parametrize("model", TOWERS)
def test_tower(model: str) -> None:
    tower = load_tower(model, cache=False)
    assert tower is not None
    millions, patches = TOWERS[model]
    assert tower.parameters / 1e6 == pytest.approx(millions, rel=0.005)
    assert tower.max_model_len == patches
    assert tower.caches == ()
    assert unmatched(tower) == ()
    attentions = [op.spec for op, _ in tower.weighted_ops() if isinstance(op.spec, Attention)]
    assert attentions
    assert not any(spec.causal for spec in attentions)


def test_windows_of_one_layer_are_one_kernel() -> None:
    tower = load_tower("Qwen/Qwen2.5-VL-7B-Instruct", cache=False)
    assert tower is not None
    windowed, full = (
        next(op.spec for op in block.ops if isinstance(op.spec, Attention))
        for block in tower.blocks
        if block.layers
    )
    assert (windowed.chunk, full.chunk) == (64, None)
    image = BatchShape.of_tokens(1024)
    assert windowed.work(image, "attention").prefill_pairs == 16 * 64 * 64
    assert full.work(image, "attention").prefill_pairs == 1024 * 1024


def test_the_language_model_comes_without_the_tower() -> None:
    graph = load_graph("google/gemma-3-27b-it", cache=False)
    assert graph.parameters / 1e9 == pytest.approx(27.0, rel=0.005)
    assert load_tower("meta-llama/Llama-3.1-8B") is None
