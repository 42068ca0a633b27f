"""Bytes that loaded weights really take: allocator blocks and kernel layouts round them up."""

from __future__ import annotations

import math
from collections.abc import Iterator

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.opgraph import OpGraph
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.ops.lm_head import LmHead

_MIB = 2**20
#: torch's CUDA allocator gives tensors from this size on blocks of whole ``_BLOCK`` bytes, and
#: splits off what is left over only when that is more than ``_SPLIT`` (CUDACachingAllocator).
_LARGE, _BLOCK, _SPLIT = 10 * _MIB, 2 * _MIB, _MIB
#: The MXFP4 layout of Triton's kernels: widths, and bytes of packed rows, in multiples of this.
_MXFP4_TILE = 64
#: Copies of a layer's larger expert matrix alive while MXFP4 weights are brought into that layout.
_MXFP4_COPIES = 2


def loaded_bytes(graph: OpGraph) -> float:
    """Bytes of the weights of ``graph`` on the device at the peak of loading, as vLLM reports."""
    slack = sum(
        block.count * block_slack(tensor)
        for block in graph.blocks
        for op in block.ops
        for tensor in _tensors(op.spec)
    )
    packed = [
        (block.count, op.spec)
        for block in graph.blocks
        for op in block.ops
        if isinstance(op.spec, Experts) and op.spec.weight == "mxfp4"
    ]
    padding = sum(count * (sum(_mxfp4(spec)) - _plain(spec)) for count, spec in packed)
    repacking = max((_MXFP4_COPIES * max(_mxfp4(spec)) for _, spec in packed), default=0.0)
    return graph.weight_bytes + slack + padding + repacking


def block_slack(tensor_bytes: float) -> float:
    """Bytes of an allocator block that a tensor leaves unused and nothing else can use."""
    if tensor_bytes < _LARGE:
        return 0.0
    slack = math.ceil(tensor_bytes / _BLOCK) * _BLOCK - tensor_bytes
    return slack if slack <= _SPLIT else 0.0


def _tensors(spec: object) -> Iterator[float]:
    """Bytes of the weight tensors of an operator."""
    match spec:
        case Embedding() if not spec.tied:
            yield spec.weight_bytes
        case Gemm() | LmHead() if not spec.tied:
            yield spec.n * spec.k * bytes_per_element(spec.weight)
        case LatentExpand():
            yield spec.n * spec.k * bytes_per_element(spec.weight)
        case Experts() if spec.weight != "mxfp4":
            matrix = spec.held * spec.hidden * spec.intermediate * bytes_per_element(spec.weight)
            yield matrix * (1 + spec.gated)
            yield matrix


def _plain(spec: Experts) -> float:
    return spec.held * spec.matrix_elements * bytes_per_element(spec.weight)


def _mxfp4(spec: Experts) -> tuple[float, float]:
    """Bytes of the up and of the down projections in tiles, one scale for 32 elements."""
    width = _tiles(spec.intermediate)
    columns = (1 + spec.gated) * width
    up = _tiles(spec.hidden / 2) * columns + spec.hidden / 32 * columns
    down = _tiles(width / 2) * _tiles(spec.hidden) + width / 32 * spec.hidden
    return spec.held * up, spec.held * down


def _tiles(size: float) -> int:
    return math.ceil(size / _MXFP4_TILE) * _MXFP4_TILE
