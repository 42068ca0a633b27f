"""Products over a handful of elements are arithmetic on the way, not matrix kernels."""

from __future__ import annotations

from servesim.graph.ir import TraceGraph
from servesim.graph.passes.simplify import base_name, parameters_of

#: No tensor core multiplies over fewer elements than this (mma.m16n8k16's k).
SMALLEST = 16


def fold_small_products(graph: TraceGraph) -> None:
    """Treat products of activations over fewer than `SMALLEST` elements as element-wise."""
    for node in graph:
        product = base_name(node.target) == "aten.bmm" and not parameters_of(node)
        if product and node.attrs["sizes"][0][-1] < SMALLEST:
            node.target = "aten.mul.Tensor"
