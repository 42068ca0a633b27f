"""``servesim trace MODEL``: what a model computes, from its real code."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from servesim.graph.opgraph import OpGraph
from servesim.graph.summary import summarise
from servesim.models.load import load_graph
from servesim.units import si

HELP = "trace a model's real code into serving operators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", help="built-in Hugging Face id, folder, or config.json")
    parser.add_argument(
        "--tensor-parallel-size", type=int, default=1, metavar="N", help="ranks sharing the model"
    )
    parser.add_argument("--dtype", metavar="D", help="bf16, fp16 or fp32 (default: checkpoint's)")
    parser.add_argument("--no-cache", action="store_true", help="trace anew")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the graph of one rank."""
    graph = load_graph(
        args.model,
        tensor_parallel_size=args.tensor_parallel_size,
        dtype=args.dtype,
        cache=not args.no_cache,
    )
    summary = summarise(graph)
    if args.json:
        json.dump(summary, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print_tables(graph, summary)
    return 0


def _print_tables(graph: OpGraph, summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    ranks = graph.tensor_parallel_size
    share = f" (one of {ranks} ranks)" if ranks > 1 else ""
    console.print(f"[bold]{graph.model}[/bold], {graph.dtype}{share}")
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    facts.add_row("parameters", si(graph.parameters, ""), "active", si(graph.active_parameters, ""))
    facts.add_row(
        "weights", si(graph.weight_bytes, "B"), "per token", si(summary["flops_per_token"], "FLOP")
    )
    facts.add_row(
        "KV cache", si(graph.kv_bytes_per_token, "B/token"),
        "state", si(summary["state_bytes_per_sequence"], "B/sequence"),
    )  # fmt: skip
    facts.add_row("layers", str(graph.num_layers), "context", f"{graph.max_model_len} tokens")
    console.print(facts)
    for block in graph.blocks:
        title = block.name if not block.layers else f"{_ranges(block.layers)}, {block.count} x"
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for column in ("operator", "kind", "shape"):
            table.add_column(column)
        for column in ("FLOP", "bytes", "weights"):
            table.add_column(column, justify="right")
        for op, row in zip(block.ops, summary["blocks"][block.name], strict=True):
            table.add_row(
                op.name, op.kind, " x ".join(map(str, row["shape"])),
                si(row["flops"], ""), si(row["bytes"], "B"), si(op.spec.weight_bytes, "B"),
            )  # fmt: skip
        console.print(table)
    console.print("[dim]FLOP and bytes of one run of the operator for a single token[/dim]")
    for note in graph.notes:
        console.print(f"[dim]note: {note}[/dim]")


def _ranges(layers: tuple[int, ...]) -> str:
    """``layers 0-2, 4``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    more = f", ... ({len(shown)} runs)" if len(shown) > 8 else ""
    return f"layers {', '.join(shown[:8])}{more}"
