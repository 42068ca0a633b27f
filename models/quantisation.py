"""A checkpoint's ``quantization_config``, or an engine's option, as a quantisation scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.dtypes import kv_cache_name
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.quantise import (
    QuantisationScheme,
    WeightFormat,
    apply_quantisation,
    with_state_dtype,
)
from servesim.models.config import ModelConfig

Values = Mapping[str, Any]

_HALF, _FLOAT = 2.0, 4.0  # bytes of a scale in the model's 16-bit format, in fp32

#: What vLLM's ``--quantization`` does to a checkpoint that is not quantised.
ONLINE: dict[str, QuantisationScheme] = {
    "fp8": QuantisationScheme("fp8", WeightFormat("fp8", "fp8", scale_bytes=_FLOAT)),
    "experts_int8": QuantisationScheme(
        "experts_int8", WeightFormat("int8", columns=1, scale_bytes=_FLOAT), experts_only=True
    ),
    # NF4 with one fp32 maximum for 64 elements (bitsandbytes' default block).
    "bitsandbytes": QuantisationScheme(
        "bitsandbytes", WeightFormat("int4", rows=64, columns=1, scale_bytes=_FLOAT)
    ),
}


def scheme_for(
    config: ModelConfig, quantization: str | None = None, kv_cache_dtype: str = "auto"
) -> QuantisationScheme | None:
    """How an engine stores the model: its own quantisation, or ``quantization`` done at loading.

    Args:
        config: of the model.
        quantization: vLLM's ``--quantization``; None for what the checkpoint says.
        kv_cache_dtype: vLLM's ``--kv-cache-dtype``; ``auto`` for what the checkpoint says.

    Returns:
        None when nothing is quantised.

    Raises:
        UnknownNameError: no such method or number format.
        InputError: ``quantization`` contradicts the checkpoint, or needs a quantised one.
        UnsupportedError: a variant servesim cannot weigh.
    """
    scheme: QuantisationScheme | None = None
    if config.quantization is not None:
        scheme = parse(config.quantization)
        spellings = (scheme.method, f"{scheme.method}_marlin", f"{scheme.method}_fp4")
        if quantization is not None and quantization not in spellings:
            raise InputError(
                f"quantization {quantization!r}: {config.name} is quantised by {scheme.method!r}"
            )
    elif quantization is not None:
        scheme = _online(config, quantization)
    if kv_cache_dtype == "auto":
        return scheme
    kv_cache = kv_cache_name(kv_cache_dtype)
    return replace(scheme or QuantisationScheme("none"), kv_cache=kv_cache)


def quantise(
    graph: OpGraph,
    config: ModelConfig,
    quantization: str | None = None,
    kv_cache_dtype: str = "auto",
    mamba_ssm_cache_dtype: str = "auto",
) -> OpGraph:
    """``graph`` of the model of ``config`` as an engine stores it: weights, KV cache and states.

    Args:
        graph: as traced; recurrences carry fp32 states.
        config: of the model.
        quantization, kv_cache_dtype: as for ``scheme_for``.
        mamba_ssm_cache_dtype: vLLM's ``--mamba-ssm-cache-dtype``; ``auto`` is what the config
            says, or else the model's own format.

    Raises:
        UnknownNameError, InputError, UnsupportedError: as ``scheme_for``.
    """
    scheme = scheme_for(config, quantization, kv_cache_dtype)
    if scheme is not None:
        graph = apply_quantisation(graph, scheme)
    if mamba_ssm_cache_dtype == "auto":
        values = config.language_values
        asked = values.get("mamba_ssm_cache_dtype") or values.get("mamba_ssm_dtype")
        mamba_ssm_cache_dtype = asked or graph.dtype
    return with_state_dtype(graph, mamba_ssm_cache_dtype)


def parse(values: Values) -> QuantisationScheme:
    """The scheme of a ``quantization_config``.

    Raises:
        InputError: no ``quant_method``.
        UnknownNameError: a method servesim does not know.
        UnsupportedError: a known method in a variant servesim cannot weigh.
    """
    method = values.get("quant_method")
    if not isinstance(method, str):
        raise InputError("quantization_config has no quant_method")
    if method not in _PARSERS:
        raise UnknownNameError("quantisation method", method, _PARSERS)
    return _PARSERS[method](values)


def _online(config: ModelConfig, quantization: str) -> QuantisationScheme:
    if quantization in ONLINE:
        return ONLINE[quantization]
    if quantization in _PARSERS:
        raise InputError(
            f"quantization {quantization!r} needs a checkpoint quantised so, and {config.name}"
            f" is not (at loading: {', '.join(sorted(ONLINE))})"
        )
    raise UnknownNameError("quantisation method", quantization, {**ONLINE, **_PARSERS})


def _ignored(values: Values, *keys: str) -> tuple[str, ...]:
    return tuple(str(name) for key in keys for name in values.get(key) or ())


def _fp8(values: Values) -> QuantisationScheme:
    """FP8 of DeepSeek and Qwen (blocks), or one scale a matrix."""
    block = values.get("weight_block_size")
    columns, rows = block if block else (None, None)
    form = WeightFormat("fp8_block" if block else "fp8", "fp8", rows, columns, _FLOAT)
    return QuantisationScheme(
        "fp8", form, _ignored(values, "modules_to_not_convert", "ignored_layers")
    )


def _fbgemm_fp8(values: Values) -> QuantisationScheme:
    """FP8 with a scale an output channel and dynamic activations (Meta's FP8 checkpoints)."""
    form = WeightFormat("fp8", "fp8", columns=1, scale_bytes=_FLOAT)
    return QuantisationScheme("fbgemm_fp8", form, _ignored(values, "modules_to_not_convert"))


def _integer(method: str, bits: Any) -> str:
    if bits not in {4, 8}:
        raise UnsupportedError(f"{method} with {bits!r} bits (servesim knows 4 and 8)")
    return f"int{bits}"


def _rows(group_size: Any) -> int | None:
    """Elements of k that share a scale; -1 and None are whole columns."""
    return None if group_size in {None, -1} else int(group_size)


def _awq(values: Values) -> QuantisationScheme:
    bits = values.get("bits", values.get("w_bit", 4))
    zero_point = bits / 8 if values.get("zero_point", True) else 0.0
    rows = _rows(values.get("group_size", values.get("q_group_size", 128)))
    form = WeightFormat(_integer("awq", bits), None, rows, 1, _HALF, zero_point)
    return QuantisationScheme("awq", form, _ignored(values, "modules_to_not_convert"))


def _gptq(values: Values) -> QuantisationScheme:
    """GPTQ; the zero points of symmetric checkpoints are dropped when the weights are repacked."""
    bits = values.get("bits", 4)
    dynamic = values.get("dynamic") or {}
    if any(not str(name).startswith("-:") for name in dynamic):
        raise UnsupportedError("gptq with other bits for some modules ('dynamic')")
    ignored = tuple(f"re:{name[2:]}" for name in dynamic)
    zero_point = 0.0 if values.get("sym", True) else bits / 8
    form = WeightFormat(
        _integer("gptq", bits), None, _rows(values.get("group_size", 128)), 1, _HALF, zero_point
    )
    ignored += _ignored(values, "modules_to_not_convert")
    return QuantisationScheme("gptq", form, ignored, lm_head=bool(values.get("lm_head", False)))


def _auto_round(values: Values) -> QuantisationScheme:
    """AutoRound's integers, kept as GPTQ's; ``extra_config`` names what keeps 16 bits."""
    kind, others = values.get("data_type", "int"), values.get("extra_config") or {}
    if kind != "int" or any(other.get("bits", 16) < 16 for other in others.values()):
        raise UnsupportedError(
            "auto-round with other than integers, or other bits for some modules"
        )
    return replace(_gptq(values), method="auto-round", ignored=tuple(others))


def _compressed_tensors(values: Values) -> QuantisationScheme:
    groups = list((values.get("config_groups") or {}).values())
    if not groups or any(group != groups[0] for group in groups[1:]):
        raise UnsupportedError(f"compressed-tensors with {len(groups)} different config_groups")
    weights, activations = groups[0].get("weights"), groups[0].get("input_activations")
    if not isinstance(weights, Mapping):
        raise UnsupportedError("compressed-tensors without quantised weights")
    return QuantisationScheme(
        "compressed-tensors",
        _compressed_format(weights, activations),
        _ignored(values, "ignore"),
        kv_cache=_compressed_kv(values.get("kv_cache_scheme")),
    )


def _compressed_format(weights: Values, activations: Values | None) -> WeightFormat:
    bits, kind = weights.get("num_bits"), weights.get("type")
    strategy, group_size = weights.get("strategy"), weights.get("group_size")
    if kind == "float" and bits == 4:
        if group_size != 16:
            raise UnsupportedError(f"compressed-tensors 4-bit floats in groups of {group_size!r}")
        return _nvfp4_format("nvfp4" if activations else None)
    if kind == "float" and bits != 8:
        raise UnsupportedError(f"compressed-tensors with {bits!r}-bit floats")
    weight = "fp8" if kind == "float" else _integer("compressed-tensors", bits)
    # Activations as narrow as the weights are multiplied as they are; others are widened.
    compute = weight if activations and activations.get("num_bits") == bits == 8 else None
    if strategy == "tensor":
        return WeightFormat(weight, compute, scale_bytes=_FLOAT)
    if strategy == "channel":
        return WeightFormat(weight, compute, columns=1, scale_bytes=_FLOAT if compute else _HALF)
    if strategy == "group":
        zero_point = 0.0 if weights.get("symmetric", True) else int(bits or 0) / 8
        return WeightFormat(weight, compute, _rows(group_size), 1, _HALF, zero_point)
    if strategy == "block":
        columns, rows = weights["block_structure"]
        weight = "fp8_block" if weight == "fp8" else weight
        return WeightFormat(weight, compute, rows, columns, _FLOAT)
    raise UnsupportedError(f"compressed-tensors with strategy {strategy!r}")


def _compressed_kv(scheme: Values | None) -> str | None:
    if scheme is None:
        return None
    if scheme.get("num_bits") == 8 and scheme.get("type") == "float":
        return "fp8"
    raise UnsupportedError(f"a KV cache of {scheme.get('num_bits')!r}-bit {scheme.get('type')!r}")


def _mxfp4(values: Values) -> QuantisationScheme:
    """MXFP4 experts (gpt-oss); the number format counts its scales, arithmetic is 16-bit."""
    form = WeightFormat("mxfp4", scale_bytes=0.0)
    return QuantisationScheme(
        "mxfp4", form, _ignored(values, "modules_to_not_convert"), experts_only=True
    )


def _nvfp4_format(compute: str | None) -> WeightFormat:
    """NVFP4: the number format counts the block scales; one fp32 scale a matrix is added."""
    return WeightFormat("nvfp4", compute, scale_bytes=_FLOAT)


def _modelopt(values: Values) -> QuantisationScheme:
    values = values.get("quantization", values)
    algorithm = str(values.get("quant_algo", "")).upper()
    formats = {"FP8": WeightFormat("fp8", "fp8", scale_bytes=_FLOAT)}
    formats["NVFP4"] = _nvfp4_format("nvfp4")
    if algorithm not in formats:
        raise UnsupportedError(f"modelopt with quant_algo {algorithm!r} (known: FP8, NVFP4)")
    kv_algorithm = values.get("kv_cache_quant_algo")
    if kv_algorithm is None and values.get("kv_cache_scheme"):
        kv_algorithm = "FP8"
    if kv_algorithm not in {None, "FP8"}:
        raise UnsupportedError(f"modelopt with kv_cache_quant_algo {kv_algorithm!r}")
    ignored = _ignored(values, "exclude_modules", "ignore")
    return QuantisationScheme(
        "modelopt", formats[algorithm], ignored, kv_cache="fp8" if kv_algorithm else None
    )


def _bitsandbytes(values: Values) -> QuantisationScheme:
    ignored = _ignored(values, "llm_int8_skip_modules")
    if values.get("load_in_8bit"):
        form = WeightFormat("int8", "int8", columns=1, scale_bytes=_FLOAT)
    elif values.get("load_in_4bit"):
        # One maximum for 64 elements: fp32, or 8-bit with an fp32 scale for 256 of them.
        double = values.get("bnb_4bit_use_double_quant", False)
        form = WeightFormat("int4", None, 64, 1, 1.0 + 4.0 / 256 if double else _FLOAT)
    else:
        raise UnsupportedError("bitsandbytes with neither load_in_4bit nor load_in_8bit")
    return QuantisationScheme("bitsandbytes", form, ignored)


_PARSERS: dict[str, Callable[[Values], QuantisationScheme]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm_fp8,
    "awq": _awq,
    "gptq": _gptq,
    "auto-round": _auto_round,
    "compressed-tensors": _compressed_tensors,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "bitsandbytes": _bitsandbytes,
}
