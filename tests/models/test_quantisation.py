"""Quantised checkpoints: schemes by method, bytes counted by hand, what is left alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from small_graphs import HIDDEN, INTERMEDIATE, VOCAB, model

from servesim.errors import InputError, ServesimError, UnknownNameError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.op import STREAM, Op
from servesim.graph.opgraph import CacheGroup, OpGraph
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.recurrent import Recurrent
from servesim.graph.passes.quantise import (
    QuantisationScheme,
    WeightFormat,
    apply_quantisation,
    widened,
    with_kv_cache,
)
from servesim.graph.work import GemmWork, MoeWork
from servesim.hardware.forms.keys import gemm_key, moe_key
from servesim.models.config import resolve
from servesim.models.quantisation import parse, quantise, scheme_for

LINEAR = [(768, HIDDEN), (HIDDEN, HIDDEN), (2 * INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
EMBEDDINGS = 2 * VOCAB * HIDDEN * 2


def compressed(weights: dict[str, Any], activations: dict[str, Any] | None = None) -> Any:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False}
INT8 = {**FP8, "type": "int"}
TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"quant_method": "fp8"}, WeightFormat("fp8", "fp8")),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 64]},
            WeightFormat("fp8_block", "fp8", rows=64, columns=128),
        ),
        ({"quant_method": "fbgemm_fp8"}, WeightFormat("fp8", "fp8", columns=1)),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True},
            WeightFormat("int4", None, 64, 1, 2.0, 0.5),
        ),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True},
            WeightFormat("int8", None, None, 1, 2.0),
        ),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True},
            WeightFormat("int4", None, 128, 1, 2.0),
        ),
        (compressed(FP8, TOKEN), WeightFormat("fp8", "fp8", columns=1)),
        (
            compressed({**FP8, "strategy": "block", "block_structure": [128, 64]}, TOKEN),
            WeightFormat("fp8_block", "fp8", rows=64, columns=128),
        ),
        (
            compressed(INT8, {**TOKEN, "type": "int"}),
            WeightFormat("int8", "int8", columns=1),
        ),
        (compressed(INT4), WeightFormat("int4", None, 128, 1, 2.0)),
        ({"quant_method": "mxfp4"}, WeightFormat("mxfp4", scale_bytes=0.0)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, WeightFormat("nvfp4", "nvfp4")),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, WeightFormat("fp8", "fp8")),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            WeightFormat("int4", None, 64, 1, 4.0),
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            WeightFormat("int8", "int8", columns=1),
        ),
    ],
    ids=lambda v: v["quant_method"] if isinstance(v, dict) else "",
)
def test_formats_by_method(values: Any, expected: WeightFormat) -> None:
    assert parse(values).format == expected


@pytest.mark.parametrize(
    ("form", "overhead"),
    [
        (WeightFormat("fp8", "fp8"), lambda n, k: 4),
        (WeightFormat("fp8", "fp8", columns=1), lambda n, k: 4 * n),
        (WeightFormat("fp8", "fp8", 128, 128), lambda n, k: 4 * (n // 128) * (k // 128)),
        (WeightFormat("int4", None, 128, 1, 2.0, 0.5), lambda n, k: 2.5 * n * (k // 128)),
    ],
    ids=["tensor", "channel", "block", "group"],
)
def test_weight_bytes_are_matrices_and_scales(form: WeightFormat, overhead: Any) -> None:
    graph = model(layers=3)
    quantised = apply_quantisation(graph, QuantisationScheme("any", form))
    bits = {"fp8": 8, "int4": 4}[form.weight]
    layer = sum(n * k * bits / 8 + overhead(n, k) for n, k in LINEAR)
    assert quantised.weight_bytes == EMBEDDINGS + 3 * layer
    assert quantised.parameters == graph.parameters


def test_ragged_blocks_have_whole_scales() -> None:
    form = WeightFormat("fp8", "fp8", rows=128, columns=128)
    assert form.scales(n=129, k=128) == 2
    assert form.scales(n=576, k=7168) == 5 * 56


def test_weight_only_formats_compute_as_the_model_does() -> None:
    def arithmetic(graph: OpGraph) -> set[str]:
        ops = [op for op in graph.blocks[1].ops if op.kind == "gemm"]
        return {op.spec.dtype for op in ops}  # type: ignore[attr-defined]

    graph = model()
    scheme = QuantisationScheme("awq", WeightFormat("int4", None, 128, 1, 2.0))
    assert arithmetic(apply_quantisation(graph, scheme)) == {"bf16"}
    scheme = QuantisationScheme("fp8", WeightFormat("fp8", "fp8"))
    assert arithmetic(apply_quantisation(graph, scheme)) == {"fp8"}


def test_formats_that_a_device_lacks_are_widened_as_they_are_read() -> None:
    narrow = apply_quantisation(model(moe=True), parse({"quant_method": "fbgemm_fp8"}))
    wide = widened(narrow, {"bf16"})
    assert widened(narrow, {"bf16", "fp8"}) == narrow
    assert wide.weight_bytes == narrow.weight_bytes
    works = [op.work(BatchShape.of([(4, 0)])) for op in wide.blocks[1].ops]
    products = [w for w in works if isinstance(w, GemmWork | MoeWork) and w.label != "router"]
    assert {(w.dtype, w.weight) for w in products} == {("bf16", "fp8")}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (compressed(FP8, TOKEN), "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
    ],
    ids=["channel", "fbgemm", "block"],
)
def test_only_blocks_run_the_kernels_of_blocks(values: Any, key: str) -> None:
    ops = apply_quantisation(model(moe=True), parse(values)).blocks[1].ops
    works = [op.work(BatchShape.of([(4, 0)])) for op in ops]
    keys = {gemm_key(w) for w in works if isinstance(w, GemmWork) and w.label != "router"}
    keys |= {moe_key(w) for w in works if isinstance(w, MoeWork)}
    assert keys == {key}


def test_experts_are_quantised_and_routers_are_not() -> None:
    scheme = parse({"quant_method": "fp8", "weight_block_size": [128, 128]})
    ops = {op.name: op for op in apply_quantisation(model(moe=True), scheme).blocks[1].ops}
    assert ops["router"].spec.weight == "bf16"  # type: ignore[attr-defined]
    experts = ops["experts"].spec
    assert isinstance(experts, Experts)
    # Up and gate: 512 x 256 each, down: 256 x 512: eight scales of 4 B each.
    assert experts.weight_bytes == 4 * (3 * 512 * 256 + 3 * 8 * 4)


def test_mxfp4_is_for_experts_only() -> None:
    graph = model(moe=True)
    quantised = apply_quantisation(graph, parse({"quant_method": "mxfp4"}))
    elements = 4 * 4 * 3 * 512 * 256
    assert graph.weight_bytes - quantised.weight_bytes == elements * (2 - 4.25 / 8)


@pytest.mark.parametrize(
    ("pattern", "module", "left_alone"),
    [
        ("lm_head", "lm_head", True),
        ("mlp.gate", "model.layers.3.mlp.gate", True),
        ("mlp.gate", "model.layers.3.mlp.gate_proj", False),
        ("model.layers.*.self_attn", "model.layers.11.self_attn.q_proj", True),
        ("model.layers.1.mlp", "model.layers.11.mlp.up_proj", False),
        ("language_model.model.layers.1.mlp", "model.layers.1.mlp.up_proj", True),
        ("re:.*down_proj", "model.layers.0.mlp.down_proj", True),
        ("re:down_proj", "model.layers.0.mlp.down_proj", False),
    ],
)
def test_ignored_modules(pattern: str, module: str, left_alone: bool) -> None:
    assert QuantisationScheme("any", ignored=(pattern,)).ignores(module) is left_alone


def test_layers_quantised_differently_become_blocks_of_their_own() -> None:
    scheme = QuantisationScheme("fp8", WeightFormat("fp8", "fp8"), ("model.layers.2.mlp",))
    graph = apply_quantisation(model(layers=4), scheme)
    assert [(b.name, b.layers) for b in graph.blocks] == [
        ("head", ()),
        ("layer", (0, 1, 3)),
        ("layer.2", (2,)),
        ("tail", ()),
    ]
    graph.lint()


def test_the_rest_of_the_weights_is_kept() -> None:
    """What no operator holds (a vision tower) weighs as much as before."""
    graph = model()
    with_tower = type(graph)(**{**vars(graph), "weight_bytes": graph.weight_bytes + 1000.0})
    scheme = QuantisationScheme("fp8", WeightFormat("fp8", "fp8"))
    difference = apply_quantisation(with_tower, scheme).weight_bytes
    assert difference - apply_quantisation(graph, scheme).weight_bytes == 1000.0


def test_an_fp8_kv_cache_takes_half() -> None:
    graph = model()
    cached = with_kv_cache(graph, "fp8")
    assert cached.kv_bytes_per_token == graph.kv_bytes_per_token / 2
    assert with_kv_cache(cached, "fp8") == cached
    assert with_kv_cache(cached, "bf16") == graph
    assert cached.weight_bytes == graph.weight_bytes


def test_recurrent_states_are_kept_as_the_config_or_the_engine_says() -> None:
    """A state of 1000 elements, traced in fp32, beside 64 B of a convolution's."""
    graph = model(layers=2, caches=(CacheGroup("state", (0, 1), 0.0, state_bytes=4064.0),))
    scan = Recurrent("ssd", 4, 8, 8, 1.0, 1.0, state_elements=1000, state_dtype="fp32")
    conv = Recurrent("short_conv", 4, 1, 1, 1.0, 1.0, state_elements=32)
    ops = (Op("scan", scan, (STREAM,)), Op("conv", conv, (STREAM,)))
    layer = dataclasses.replace(graph.blocks[1], ops=ops)
    graph = dataclasses.replace(graph, blocks=(graph.blocks[0], layer, graph.blocks[2]))
    plain, asks = resolve("Qwen/Qwen3-Next-80B-A3B-Instruct"), resolve("Qwen/Qwen3-8B")
    asks = dataclasses.replace(asks, values={**asks.values, "mamba_ssm_dtype": "float32"})
    assert quantise(graph, plain).state_bytes_per_sequence == 2 * 2064
    assert quantise(graph, asks).state_bytes_per_sequence == 2 * 4064
    assert quantise(graph, plain, None, "auto", "float32") == graph
    assert quantise(graph, plain, None, "auto", "fp8").caches[0].state_bytes == 1064


def test_the_checkpoint_may_ask_for_its_kv_format() -> None:
    scheme = parse({**compressed(FP8, TOKEN), "kv_cache_scheme": {"num_bits": 8, "type": "float"}})
    assert scheme.kv_cache == "fp8"
    algorithms = {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}
    assert parse({"quant_method": "modelopt", "quantization": algorithms}).kv_cache == "fp8"


def test_auto_round_leaves_alone_what_keeps_16_bits() -> None:
    extra = {"model.layers.0.mlp.down_proj": {"bits": 16}}
    scheme = parse({"quant_method": "auto-round", "bits": 4, "extra_config": extra})
    assert scheme.method == "auto-round"
    assert scheme.ignores("model.layers.0.mlp.down_proj")
    assert not scheme.ignores("model.layers.1.mlp.down_proj")


def test_options_of_the_engine() -> None:
    plain, quantised = resolve("Qwen/Qwen3-8B"), resolve("Qwen/Qwen3-8B-AWQ")
    assert scheme_for(plain) is None
    online = scheme_for(plain, "fp8", "fp8_e4m3")
    assert online is not None
    assert (online.format, online.kv_cache) == (WeightFormat("fp8", "fp8"), "fp8")
    assert scheme_for(quantised, "awq_marlin") == scheme_for(quantised, "awq")
    graph = model()
    assert quantise(graph, plain) == graph
    assert quantise(graph, plain, kv_cache_dtype="fp8") == with_kv_cache(graph, "fp8")
    with pytest.raises(InputError, match="is quantised by 'awq'"):
        scheme_for(quantised, "fp8")
    with pytest.raises(InputError, match="needs a checkpoint quantised so"):
        scheme_for(plain, "awq")
    with pytest.raises(UnknownNameError, match="did you mean 'fp8'"):
        scheme_for(plain, "fpp8")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, InputError, "no quant_method"),
        ({"quant_method": "awk"}, UnknownNameError, "did you mean 'awq'"),
        ({"quant_method": "gptq", "bits": 3}, UnsupportedError, "3 bits"),
        ({"quant_method": "gptq", "dynamic": {"+:x": {}}}, UnsupportedError, "dynamic"),
        ({"quant_method": "auto-round", "data_type": "mx_fp"}, UnsupportedError, "integers"),
        (
            {"quant_method": "auto-round", "extra_config": {"a": {"bits": 8}}},
            UnsupportedError,
            "other bits",
        ),
        ({"quant_method": "bitsandbytes"}, UnsupportedError, "load_in_4bit"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, UnsupportedError, "W4A8"),
        (compressed({**INT8, "strategy": "odd"}), UnsupportedError, "odd"),
        ({"quant_method": "compressed-tensors"}, UnsupportedError, "config_groups"),
    ],
)
def test_what_cannot_be_weighed_is_refused(
    values: Any, error: type[ServesimError], message: str
) -> None:
    with pytest.raises(error, match=message):
        parse(values)
