"""What fits: sums by hand, and errors that say what would."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import HIDDEN, INTERMEDIATE, VOCAB, model

from servesim.errors import CapacityError, InputError, UnsupportedError
from servesim.graph.op import Op
from servesim.graph.opgraph import CacheGroup, OpGraph
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.passes.quantise import QuantisationScheme, WeightFormat, apply_quantisation
from servesim.graph.passes.stage import split_stages
from servesim.models.activation import CUBLAS_BYTES, LargestStep, activation_peak
from servesim.models.config import ModelConfig, resolve
from servesim.models.memory import (
    LIBRARY_BYTES,
    MemoryOptions,
    MemoryPlan,
    cuda_graph_bytes,
    library_bytes,
    plan_memory,
)
from servesim.models.towers import rotary_bytes, vision_tower
from servesim.models.weights import block_slack, loaded_bytes
from servesim.units import GIB
from servesim.vllm_defaults import capture_sizes

MIB = 2**20
SMALL = MemoryOptions(max_num_batched_tokens=2048, max_num_seqs=128)


def plan(memory: float = 2 * GIB, graph: OpGraph | None = None, **options: object) -> MemoryPlan:
    changed = dataclasses.replace(SMALL, **options)  # type: ignore[arg-type]
    return plan_memory(graph or model(), memory, changed)


def test_the_forward_pass_is_streams_and_the_widest_kernel() -> None:
    tokens = 4096
    stream = tokens * HIDDEN * 2
    activation = tokens * 3 * INTERMEDIATE * 2  # gate and up in, their product out
    peak = activation_peak(model(), LargestStep(tokens, 1, 8192), compute_units=1)
    assert peak == 4 * stream + activation + CUBLAS_BYTES


def test_quantised_inputs_are_one_more_copy() -> None:
    tokens, graph = 4096, model()
    scheme = QuantisationScheme("int8", WeightFormat("int8", "int8", columns=1))
    narrow = apply_quantisation(graph, scheme)
    step = LargestStep(tokens, 1, 8192)
    more = activation_peak(narrow, step, 1) - activation_peak(graph, step, 1)
    assert more == tokens * INTERMEDIATE


def test_the_sampler_has_logits_and_three_copies_in_32_bits() -> None:
    tokens, sequences, units = 1024, 1024, 132
    sampler = sequences * VOCAB * (2 + 3 * 4) + units * VOCAB * 4 + 2 * sequences * HIDDEN * 2
    expected = tokens * HIDDEN * 2 + sampler + CUBLAS_BYTES
    step = LargestStep(tokens, sequences, 8192)
    assert activation_peak(model(), step, units) == expected
    # Few sequences: one row of logits for each, to the next power of two.
    fewer = activation_peak(model(layers=1), LargestStep(48, 48, 8192), units)
    assert fewer == 48 * HIDDEN * 2 + 48 * VOCAB * 14 + 64 * VOCAB * 4 + 96 * HIDDEN * 2 + (
        CUBLAS_BYTES
    )


def test_experts_share_a_workspace_over_layers_and_beside_the_sampler() -> None:
    """Top 2 of experts of width 256 under hidden 512: inputs 512, outputs 512 a pair."""
    tokens = 2048
    with_experts = activation_peak(model(moe=True), LargestStep(tokens, 2048, 8192), 132)
    expected = tokens * HIDDEN * 2 + 2048 * VOCAB * 14 + 132 * VOCAB * 4 + 2 * 2048 * HIDDEN * 2
    assert with_experts == expected + tokens * 2 * (512 + 512) * 2 + CUBLAS_BYTES


def test_the_kv_cache_gets_the_rest() -> None:
    graph = model()
    found = plan(2 * GIB, graph)
    peak = activation_peak(graph, LargestStep(2048, 128, 8192), 132)
    left = 2 * GIB * 0.9 - graph.weight_bytes - peak - LIBRARY_BYTES
    assert found.weight_bytes == graph.weight_bytes
    assert found.kv_cache_bytes == pytest.approx(left)
    assert found.kv_cache_blocks == int(left // (4 * 512 * 16))
    assert found.kv_cache_tokens == 16 * found.kv_cache_blocks
    assert (found.max_model_len, found.block_size) == (8192, 16)


@given(st.floats(1.0, 100.0), st.floats(0.5, 0.99), st.integers(1, 4096), st.integers(1, 4096))
def test_parts_never_exceed_the_share_and_more_memory_never_holds_less(
    gigabytes: float, share: float, tokens: int, sequences: int
) -> None:
    options = {
        "gpu_memory_utilization": share,
        "max_num_batched_tokens": tokens,
        "max_num_seqs": sequences,
        "max_model_len": 16,
    }
    memory = (gigabytes + 1) * GIB
    small, large = plan(memory, **options), plan(memory + GIB, **options)
    used = small.weight_bytes + small.activation_peak_bytes + small.reserve_bytes
    assert used + small.kv_cache_blocks * 4 * 512 * 16 <= memory * share
    assert used + small.kv_cache_bytes == pytest.approx(memory * share)
    assert small.kv_cache_tokens <= large.kv_cache_tokens


def test_a_device_that_is_large_takes_larger_steps() -> None:
    def limits(options: MemoryOptions, memory: float, longest: int) -> tuple[int, int]:
        step = options.largest_step(memory, longest)
        return step.tokens, step.sequences

    assert limits(MemoryOptions(), 80 * GIB, 8192) == (8192, 1024)
    assert limits(MemoryOptions(), 24 * GIB, 8192) == (2048, 256)
    assert limits(MemoryOptions(max_num_batched_tokens=64), 80 * GIB, 8192) == (64, 64)
    assert limits(MemoryOptions(max_num_seqs=1), 80 * GIB, 2048) == (2048, 1)


def test_latent_attention_expands_cached_tokens() -> None:
    assert LargestStep(8192, 256, 4096).expanded_tokens == 8 * 4096
    assert LargestStep(8192, 256, 1024).expanded_tokens == 4 * 256 * 16
    assert LargestStep(8192, 256, 131072).expanded_tokens == 64 * 1024
    graph = model()
    ops = (*graph.blocks[1].ops, Op("kv_b_proj", LatentExpand(2048, 512, 8), ("qkv_proj",)))
    blocks = (graph.blocks[0], dataclasses.replace(graph.blocks[1], ops=ops), graph.blocks[2])
    latent = dataclasses.replace(graph, blocks=blocks)
    peak = activation_peak(latent, LargestStep(256, 1, 8192), 1)
    assert peak == 4 * 256 * HIDDEN * 2 + 65536 * 2048 * 2 + CUBLAS_BYTES


def test_cuda_graphs() -> None:
    assert len(capture_sizes(1024)) == 51
    assert capture_sizes(4) == (1, 2, 4, 8)
    assert cuda_graph_bytes(10, 4) == GIB / 4 + (4 + 3) * 10 * 200 * 1024
    assert plan(enforce_eager=True).cuda_graph_bytes == 0
    counted, not_counted = plan(estimate_cuda_graphs=True), plan()
    assert counted.cuda_graph_bytes == not_counted.cuda_graph_bytes > 0
    difference = not_counted.kv_cache_bytes - counted.kv_cache_bytes
    assert difference == pytest.approx(counted.cuda_graph_bytes)


def test_collectives_take_memory() -> None:
    assert library_bytes(1) < library_bytes(2) < library_bytes(4)
    assert library_bytes(1, 2) < library_bytes(1, 1)


def test_an_override_sets_the_blocks() -> None:
    found = plan(num_gpu_blocks_override=100)
    assert (found.kv_cache_blocks, found.kv_cache_tokens) == (100, 1600)


def test_an_fp8_cache_holds_twice_the_tokens() -> None:
    half, whole = plan(kv_cache_dtype="fp8"), plan()
    assert half.kv_cache_tokens == pytest.approx(2 * whole.kv_cache_tokens, abs=32)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(CapacityError, match=r"needs 0\.\d\d GiB .* may use 0\.18 GiB"):
        plan(0.2 * GIB)


def test_the_error_names_the_longest_sequence_that_fits() -> None:
    graph = dataclasses.replace(model(), max_model_len=1_000_000)
    memory = 0.6 * GIB
    with pytest.raises(CapacityError, match=r"needs 1\.91 GiB") as caught:
        plan(memory, graph)
    found = re.search(r"largest max_model_len that fits is (\d+)", str(caught.value))
    assert found is not None
    longest = int(found[1])
    fitting = plan(memory, graph, max_model_len=longest)
    assert fitting.kv_cache_tokens >= longest
    assert plan(memory, graph, max_model_len=-1) == fitting
    assert plan(memory, model(), max_model_len=-1).max_model_len == model().max_model_len
    with pytest.raises(CapacityError):
        plan(memory, graph, max_model_len=longest + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization must be in \(0, 1\], not 1.5"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, not 0"),
        ({"kv_cache_dtype": "fp7"}, "unknown dtype 'fp7'"),
        ({"max_model_len": 9000}, "max_model_len 9000 is longer than the context of small, 8192"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(**options)


def test_stages_are_cut_as_vllm_cuts_them() -> None:
    graph = model(layers=10)
    stages = split_stages(graph, 4)
    assert [stage.num_layers for stage in stages] == [2, 3, 3, 2]
    assert sum(stage.weight_bytes for stage in stages) == graph.weight_bytes
    assert [c.layers for s in stages for c in s.caches] == [(0, 1), (2, 3, 4), (5, 6, 7), (8, 9)]
    kinds = [[block.name for block in stage.blocks] for stage in stages]
    assert kinds == [["head", "layer"], ["layer"], ["layer"], ["layer", "tail"]]
    assert split_stages(graph, 1) == (graph,)
    with pytest.raises(UnsupportedError, match="10 layers cannot make 11"):
        split_stages(graph, 11)


def test_the_fullest_stage_decides() -> None:
    graph = model(layers=8)
    found = plan(4 * GIB, graph, pipeline_parallel_size=2)
    last = split_stages(graph, 2)[1]
    assert found.weight_bytes == last.weight_bytes
    assert found.kv_cache_blocks > plan(4 * GIB, graph).kv_cache_blocks


def test_windowed_layers_leave_more_room() -> None:
    mixed = (CacheGroup("full", (0, 1), 512.0), CacheGroup("window", (2, 3), 512.0, window=128))
    graph = dataclasses.replace(model(caches=mixed), max_model_len=2**21)
    with pytest.raises(CapacityError):
        plan(3 * GIB, dataclasses.replace(model(), max_model_len=2**21))
    assert plan(3 * GIB, graph).kv_cache_tokens > 0


def test_what_an_allocator_block_leaves_unused() -> None:
    assert block_slack(9.5 * MIB) == 0
    assert block_slack(31.5 * MIB) == 0.5 * MIB
    assert block_slack(24.5 * MIB) == 0  # 1.5 MiB are split off for others
    assert block_slack(24.0 * MIB) == 0


def test_mxfp4_experts_are_padded_and_repacked() -> None:
    scheme = QuantisationScheme("mxfp4", WeightFormat("mxfp4", scale_bytes=0.0), experts_only=True)
    graph = apply_quantisation(model(layers=2, moe=True), scheme)
    # Widths of 512 and 256 are whole tiles: nothing to pad. Two copies of up and gate:
    up = 4 * (256 * 512 + 16 * 512)
    assert loaded_bytes(graph) == graph.weight_bytes + 2 * up


def test_rotary_tables() -> None:
    assert rotary_bytes(resolve("meta-llama/Llama-3.1-8B"), "bf16") == 131072 * 128 * 2
    # Linear scaling by 8 for the full layers, and the windowed layers' own table.
    assert rotary_bytes(resolve("google/gemma-3-4b-it"), "bf16") == 9 * 131072 * 256 * 2
    assert rotary_bytes(resolve("openai/gpt-oss-20b"), "bf16") == 131072 * 64 * 2
    assert rotary_bytes(resolve("microsoft/phi-2"), "fp16") == 2048 * 32 * 2
    assert rotary_bytes(resolve("openai-community/gpt2"), "bf16") == 0


def test_rotary_tables_of_configs_written_by_newer_versions() -> None:
    kinds = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {}}
    values = {"model_type": "gemma3_text", "head_dim": 256, "max_position_embeddings": 131072}
    config = ModelConfig("new", {**values, "rope_parameters": kinds}, "")
    assert rotary_bytes(config, "bf16") == 9 * 131072 * 256 * 2
    assert rotary_bytes(resolve("Qwen/Qwen3.5-9B"), "bf16") == 262144 * 64 * 2


def test_towers_of_an_unusual_kind_are_left_out() -> None:
    odd = ModelConfig("odd", {"model_type": "x", "vision_config": {"embed_dim": 1280}}, "")
    assert vision_tower(odd) is None
    sides = {"patch_size": [14, 14], "image_size": [448, 448], "depth": 1}
    vision = {**sides, "hidden_size": 64, "intermediate_size": 256}
    text = {"model_type": "x", "text_config": {"hidden_size": 32}, "vision_config": vision}
    tower = vision_tower(ModelConfig("lists", text, ""))
    assert tower is not None
    assert tower.tokens_per_image == 32**2
    assert tower.parameters == 4 * 64**2 + 2 * 64 * 256 + 3 * 14**2 * 64 + 64 * 32


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("google/gemma-3-4b-it", 4_300_079_472 - 3_880_263_168),
        ("mistralai/Mistral-Small-3.1-24B-Instruct-2503", 24_011_361_280 - 23_572_403_200),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696 - 8_190_735_360),
    ],
)
def test_vision_towers_weigh_what_checkpoints_have_beside_the_language_model(
    name: str, parameters: int
) -> None:
    tower = vision_tower(resolve(name))
    assert tower is not None
    assert tower.parameters == pytest.approx(parameters, rel=0.03)


def test_images_of_the_largest_batch() -> None:
    """Gemma 3: 8192 tokens are 32 images of 896 x 896 pixels."""
    tower = vision_tower(resolve("google/gemma-3-4b-it"))
    assert tower is not None
    expected = 32 * 3 * 896**2 * 2 + 8192 * 2560 * 2
    assert tower.encoder_bytes(2560, 8192, "bf16") == expected
    assert vision_tower(resolve("Qwen/Qwen3-8B")) is None
