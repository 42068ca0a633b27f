"""What tells a measured model from others: its sizes, and the number format of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from servesim.errors import UnknownNameError
from servesim.graph.dtypes import short_name
from servesim.graph.opgraph import OpGraph

#: Sizes by their names in ``config.json``; together they tell a dense model from others.
HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY = SIZES = (
    *("hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size"),
)
#: Vocabularies may be padded by this share (Vidur's Llama 2 has 32768 words, not 32000).
_PADDED = 0.05
#: One kernel serves either.
_SIXTEEN_BITS = {"fp16", "bf16"}

#: The sizes of a model that is known by its id, in any case; None of any other.
SizesOf = Callable[[str], Mapping[str, int] | None]


def nothing_known(model: str) -> None:
    """No model is known by its id."""


def graph_sizes(graph: OpGraph) -> dict[str, int]:
    """Sizes of the whole model, those that all its layers share."""
    found = {HIDDEN: {graph.hidden_size}, VOCABULARY: {graph.vocab_size}}
    for op, _ in graph.weighted_ops():
        if op.kind == "attention":
            found.setdefault(HEADS, set()).add(op.spec.shape[0] * graph.tensor_parallel_size)
            found.setdefault(KV_HEADS, set()).add(op.spec.shape[1] * graph.tensor_parallel_size)
        elif op.kind == "gemm" and op.name == "down_proj":
            found.setdefault(INNER, set()).add(op.spec.shape[1] * graph.tensor_parallel_size)
    return {name: max(values) for name, values in found.items() if len(values) == 1}


def differing(measured: Mapping[str, int], graph: OpGraph) -> str | None:
    """The first size that ``measured`` and ``graph`` do not share, of those both have."""
    here = graph_sizes(graph)
    for name in SIZES:
        if name in measured and name in here and measured[name] != here[name]:
            padded = abs(measured[name] / here[name] - 1) <= _PADDED
            repeated = measured[name] <= here[name] == graph.tensor_parallel_size
            if not (padded if name == VOCABULARY else name == KV_HEADS and repeated):
                return name
    return None


def same_sizes(measured: Mapping[str, int], graph: OpGraph) -> bool:
    """Whether every one of ``SIZES`` is known of both and the same."""
    known = measured.keys() & graph_sizes(graph).keys()
    return known.issuperset(SIZES) and differing(measured, graph) is None


def format_of(name: str) -> str:
    """The number format that the name of a folder says, ``fp8`` or ``bfloat16-kv8``; else empty."""
    for word in (name, name.partition("-")[0]):
        try:
            return short_name(word)
        except UnknownNameError:
            continue
    return ""


def weight_format(graph: OpGraph) -> str:
    """Number format of most of the weights in the layers; empty where there are none."""
    weights: dict[str, int] = {}
    for block in graph.blocks:
        for op in block.ops if block.layers else ():
            if found := getattr(op.spec, "weight", ""):
                weights[found] = weights.get(found, 0) + op.spec.weight_elements * block.count
    return max(weights, key=weights.__getitem__, default="").removesuffix("_block")


def same_format(one: str, other: str) -> bool:
    """Whether two number formats of weights take the same time, as far as both are known."""
    return not one or not other or one == other or {one, other} <= _SIXTEEN_BITS
