"""Caches of models that keep them in tensors of their own, from what a decode step reads."""

from __future__ import annotations

from collections.abc import Iterator

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.ir import CONSTANT, Node, TraceGraph
from servesim.graph.opgraph import CacheGroup
from servesim.graph.passes.caches import Kept, group_layers


def caches_read(decode: TraceGraph, tokens: int, dtype: str) -> tuple[CacheGroup, ...]:
    """What the layers of a decode step read that is neither parameter nor buffer nor computed.

    Args:
        decode: the decode step as recorded, before any pass.
        tokens: tokens of the prefill before it: a tensor with such a dimension holds keys and
            values, one without a state.
    """
    kept: dict[int | None, tuple[float, float]] = {}
    for node, reader in _stored_tensors(decode):
        layer: int | None = reader
        elements = node.numel / decode.batch
        if decode.layers in node.shape:  # one tensor for all layers
            elements, layer = elements / decode.layers, None
        per_token, state = kept.get(layer, (0.0, 0.0))
        if tokens in node.shape:
            per_token += elements / tokens * bytes_per_element(dtype)
        else:
            state += elements * node.itemsize
        kept[layer] = (per_token, state)
    groups: dict[Kept, list[int]] = {}
    for layer, (per_token, state) in kept.items():
        layers = _layers_like(decode, layer)
        if per_token:
            groups.setdefault(Kept("full", per_token), []).extend(layers)
        if state:
            groups.setdefault(Kept("state", 0.0, None, state), []).extend(layers)
    return group_layers(groups)


def _stored_tensors(decode: TraceGraph) -> Iterator[tuple[Node, int]]:
    """Tensors from outside the step, with a row a sequence, and the layer that reads each first."""
    readers: dict[int, int] = {}
    for node in decode:
        if node.layer is not None:
            for i in node.inputs:
                readers.setdefault(i, node.layer)
    for node in decode:
        outside = node.target == CONSTANT and not node.attrs["name"]
        if outside and node.id in readers and decode.batch in node.shape:
            yield node, readers[node.id]


def _layers_like(decode: TraceGraph, layer: int | None) -> list[int]:
    if layer is None:
        return list(range(decode.layers))
    return [layer, *(r.layer for r in decode.repeats if r.like == layer)]
