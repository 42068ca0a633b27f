"""Experts that the modelling code runs on every token count as an engine runs them."""

from __future__ import annotations

from servesim.graph.ir import Node, TraceGraph


def undo_dense_experts(graph: TraceGraph) -> None:
    """Shrink the copies of all tokens, one an expert, to one row a token.

    The router's scores stay the mask they are multiplied as; how many experts a token really
    meets is in the router's ``top_k``.
    """
    for node in list(graph):
        if node.target != "experts" or node.attrs["top_k"]:
            continue
        copies = node.attrs["experts"]
        for tensor in (node, graph.nodes[node.inputs[0]]):
            if tensor.numel == copies * graph.rows * tensor.shape[-1]:
                tensor.shape = (graph.rows, tensor.shape[-1])
                _shrink_reads(graph, tensor, copies)


def _shrink_reads(graph: TraceGraph, tensor: Node, copies: int) -> None:
    for reader in graph:
        reads = reader.attrs.get("reads_of", ())
        reader.attrs["reads_of"] = tuple(
            (views, size // copies if views[-1] == tensor.id else size) for views, size in reads
        )
