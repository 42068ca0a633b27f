"""An operator graph in numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import OpGraph
from servesim.graph.unmatched import unmatched

#: One token on an empty context: what ``flops`` and ``bytes`` of an operator refer to.
ONE_TOKEN = BatchShape.of_tokens(1)


def summarise(graph: OpGraph) -> dict[str, Any]:
    """What ``servesim trace --json`` prints.

    ``flops`` and ``bytes`` of an operator are for one run of it with a single token on an empty
    context; ``flops_per_token`` counts linear layers and experts of all layers: 2 x active
    parameters.
    """
    rows = {b.name: [_row(op, b.count) for op in b.ops] for b in graph.blocks}
    return {
        "model": graph.model,
        "dtype": graph.dtype,
        "tensor_parallel_size": graph.tensor_parallel_size,
        "parameters": graph.parameters,
        "active_parameters": graph.active_parameters,
        "weight_bytes": graph.weight_bytes,
        "flops_per_token": flops_per_token(graph),
        "kv_bytes_per_token": graph.kv_bytes_per_token,
        "state_bytes_per_sequence": graph.state_bytes_per_sequence,
        "layers": graph.num_layers,
        "max_model_len": graph.max_model_len,
        "caches": [
            {
                "kind": c.kind,
                "layers": len(c.layers),
                "bytes_per_token": c.bytes_per_token,
                "window": c.window,
                "state_bytes": c.state_bytes,
            }
            for c in graph.caches
        ],
        "operators": [row for block in rows.values() for row in block],
        "blocks": rows,
        "unmatched": [asdict(item) for item in unmatched(graph)],
        "notes": list(graph.notes),
    }


def flops_per_token(graph: OpGraph) -> float:
    """FLOP of linear layers and experts for one token."""
    total = 0.0
    for op, count in graph.weighted_ops():
        if op.runs(ONE_TOKEN):
            work = op.work(ONE_TOKEN)
            total += count * work.flops if work.family in {"gemm", "moe"} else 0.0
    return total


def _row(op: Op, count: int) -> dict[str, Any]:
    runs = op.runs(ONE_TOKEN)
    work = op.work(ONE_TOKEN)
    return {
        "name": op.name,
        "kind": op.kind,
        "count": count,
        "flops": work.flops if runs else 0.0,
        "bytes": work.bytes_read + work.bytes_written if runs else 0.0,
        "shape": list(op.spec.shape),
    }
