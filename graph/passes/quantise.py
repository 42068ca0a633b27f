"""Weights in fewer bits: the formats of the matrices, their scales, and the KV cache's format."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from servesim.graph.dtypes import bytes_per_element, short_name
from servesim.graph.op import Op, OpSpec
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.recurrent import Recurrent

#: Number formats of weights that engines can multiply in a wider one.
_WIDENED = ("fp8", "nvfp4")
#: Linear layers that choose experts or gate them: serving engines never quantise them.
_ROUTERS = ("gate", "router", "shared_expert_gate", "wg")


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How a quantised matrix of n columns (outputs) and k rows (inputs) is stored and multiplied.

    Attributes:
        weight: number format of its elements.
        compute: number format of the arithmetic; None multiplies in the model's own format
            (weight-only quantisation).
        rows, columns: elements of k and of n that share a scale; None for all of them.
        scale_bytes, zero_point_bytes: bytes of one scale, of one zero point.
    """

    weight: str
    compute: str | None = None
    rows: int | None = None
    columns: int | None = None
    scale_bytes: float = 4.0
    zero_point_bytes: float = 0.0

    def scales(self, n: int, k: int) -> int:
        """Scales of an n x k matrix."""
        return math.ceil(k / (self.rows or k)) * math.ceil(n / (self.columns or n))

    def overhead_bytes(self, n: int, k: int) -> float:
        """Bytes of the scales and zero points of an n x k matrix."""
        return self.scales(n, k) * (self.scale_bytes + self.zero_point_bytes)


@dataclass(frozen=True, slots=True)
class QuantisationScheme:
    """Which matrices of a model are quantised, and how.

    Attributes:
        method: name as the checkpoint or the engine spells it (``fp8``, ``awq``, ...).
        format: of the quantised matrices; None leaves every matrix alone.
        ignored: modules left alone: dotted names or parts of them, ``*`` for any one component,
            or ``re:`` and a regular expression.
        experts_only: only routed experts are quantised.
        lm_head: the LM head is quantised too.
        kv_cache: number format of the KV cache; None keeps the model's.
    """

    method: str
    format: WeightFormat | None = None
    ignored: tuple[str, ...] = ()
    experts_only: bool = False
    lm_head: bool = False
    kv_cache: str | None = None

    def ignores(self, module: str) -> bool:
        """Whether the module of that dotted name is left alone."""
        return any(_matches(pattern, module) for pattern in self.ignored)


def apply_quantisation(graph: OpGraph, scheme: QuantisationScheme) -> OpGraph:
    """``graph`` with its matrices and KV cache as ``scheme`` stores them.

    Layers of a block that are quantised differently become blocks of their own. Works on sharded
    graphs and on whole ones.
    """
    blocks = [piece for block in graph.blocks for piece in _quantise(block, scheme)]
    quantised = replace(graph, blocks=tuple(blocks))
    saved = graph.operator_weight_bytes - quantised.operator_weight_bytes
    quantised = replace(quantised, weight_bytes=graph.weight_bytes - saved)
    return quantised if scheme.kv_cache is None else with_kv_cache(quantised, scheme.kv_cache)


def with_kv_cache(graph: OpGraph, dtype: str) -> OpGraph:
    """``graph`` with keys and values cached in ``dtype``; recurrent states keep theirs.

    Raises:
        UnknownNameError: no such number format.
    """
    dtype = short_name(dtype)

    def cached(op: Op) -> Op:
        spec = op.spec
        if not isinstance(spec, Attention):
            return op
        return replace(op, spec=replace(spec, kv_dtype=dtype))

    before = {op.spec.kv_dtype for op, _ in graph.weighted_ops() if isinstance(op.spec, Attention)}
    old = max((bytes_per_element(name) for name in before), default=bytes_per_element(dtype))
    ratio = bytes_per_element(dtype) / old
    caches = tuple(replace(c, bytes_per_token=c.bytes_per_token * ratio) for c in graph.caches)
    return replace(graph, blocks=tuple(_map(b, cached) for b in graph.blocks), caches=caches)


def widened(graph: OpGraph, formats: Container[str]) -> OpGraph:
    """``graph`` with narrow floats that are none of ``formats`` multiplied in the model's own.

    Matrices stay as they are stored: engines widen what a device has no arithmetic for in the
    kernel that reads it (Marlin's of vLLM for FP8 and NVFP4).
    """

    def wide(op: Op) -> Op:
        spec = op.spec
        if not isinstance(spec, Gemm | LatentExpand | LmHead | Experts):
            return op
        if spec.dtype in formats or spec.dtype not in _WIDENED:
            return op
        return replace(op, spec=replace(spec, dtype=graph.dtype))

    return replace(graph, blocks=tuple(_map(block, wide) for block in graph.blocks))


def with_state_dtype(graph: OpGraph, dtype: str) -> OpGraph:
    """``graph`` with the fp32 states of recurrences kept in ``dtype`` between steps.

    Raises:
        UnknownNameError: no such number format.
    """
    dtype = short_name(dtype)
    saved: dict[int, float] = {}

    def kept(op: Op) -> Op:
        spec = op.spec
        if not isinstance(spec, Recurrent) or spec.state_dtype != "fp32":
            return op
        return replace(op, spec=replace(spec, state_dtype=dtype))

    blocks = tuple(_map(block, kept) for block in graph.blocks)
    for block, before in zip(blocks, graph.blocks, strict=True):
        saved |= dict.fromkeys(block.layers, _state_bytes(before) - _state_bytes(block))
    caches = tuple(
        replace(c, state_bytes=c.state_bytes - saved.get(c.layers[0], 0.0))
        if c.kind == "state"
        else c
        for c in graph.caches
    )
    return replace(graph, blocks=blocks, caches=caches)


def _state_bytes(block: Block) -> float:
    return sum(op.spec.state_bytes for op in block.ops if isinstance(op.spec, Recurrent))


def _map(block: Block, change: Callable[[Op], Op]) -> Block:
    return replace(block, ops=tuple(change(op) for op in block.ops))


def _quantise(block: Block, scheme: QuantisationScheme) -> list[Block]:
    """The block quantised, split where its layers are quantised differently."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for layer in block.layers or (-1,):
        chosen = tuple(_is_quantised(op, layer, scheme) for op in block.ops)
        groups.setdefault(chosen, []).append(layer)
    pieces = []
    for index, (chosen, layers) in enumerate(groups.items()):
        ops = tuple(
            replace(op, spec=_quantised(op.spec, scheme.format)) if yes and scheme.format else op
            for op, yes in zip(block.ops, chosen, strict=True)
        )
        name = block.name if index == 0 else f"{block.name}.{index + 1}"
        pieces.append(Block(name, ops, tuple(layers) if block.layers else ()))
    return pieces


def _is_quantised(op: Op, layer: int, scheme: QuantisationScheme) -> bool:
    spec = op.spec
    prefix = f"model.layers.{layer}." if layer >= 0 else ""
    if scheme.format is None:
        return False
    if isinstance(spec, Experts):
        return not scheme.ignores(f"{prefix}{op.scope or op.name}")
    if isinstance(spec, LmHead):
        return scheme.lm_head
    if scheme.experts_only or not isinstance(spec, Gemm | LatentExpand):
        return False
    sources = _sources(op)
    return not any(s.rpartition(".")[2] in _ROUTERS for s in sources) and not all(
        scheme.ignores(prefix + source) for source in sources
    )


def _sources(op: Op) -> list[str]:
    """Names of the linear layers that an operator multiplies by."""
    if isinstance(op.spec, Gemm) and op.spec.parts:
        return [part.source for part in op.spec.parts]
    source = op.spec.source if isinstance(op.spec, LatentExpand) else ""
    return [source or op.scope or op.name]


def _quantised(spec: OpSpec, form: WeightFormat) -> OpSpec:
    if isinstance(spec, Gemm | LatentExpand | LmHead):
        return replace(
            spec,
            weight=form.weight,
            dtype=form.compute or spec.dtype,
            scale_bytes=form.overhead_bytes(spec.n, spec.k),
        )
    assert isinstance(spec, Experts)
    up = form.overhead_bytes(spec.intermediate, spec.hidden) * (2 if spec.gated else 1)
    down = form.overhead_bytes(spec.hidden, spec.intermediate)
    return replace(
        spec, weight=form.weight, dtype=form.compute or spec.dtype, scale_bytes=up + down
    )


def _matches(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    plain = re.escape(pattern.removeprefix("language_model.")).replace(r"\*", r"[^.]*")
    return re.search(rf"(^|\.){plain}(\.|$)", module) is not None
