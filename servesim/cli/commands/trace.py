"""``servesim trace MODEL``: what a model computes, from its real code."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.graph.opgraph import OpGraph
from servesim.graph.summary import ONE_TOKEN, summarise
from servesim.graph.unmatched import unmatched
from servesim.models.config import resolve
from servesim.models.load import load_graph, load_tower, serving_dtype
from servesim.models.quantisation import quantise
from servesim.units import si

HELP = "trace a model's real code into serving operators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", nargs="?", help="built-in Hugging Face id, folder, or config.json")
    parser.add_argument(
        "--tensor-parallel-size", type=int, default=1, metavar="N", help="ranks sharing the model"
    )
    parser.add_argument("--dtype", metavar="D", help="bf16, fp16 or fp32 (default: checkpoint's)")
    parser.add_argument(
        "--vision", action="store_true", help="the vision tower of a multimodal model instead"
    )
    parser.add_argument(
        "--fx", type=Path, metavar="FILE", help="write the prefill as recorded, as a torch.fx graph"
    )
    parser.add_argument("--no-cache", action="store_true", help="trace anew")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--all", action="store_true", help="trace every causal-LM type of transformers"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="with --all: write a CSV table")


def run(args: argparse.Namespace) -> int:
    """Print the graph of one rank, or trace every type.

    Raises:
        InputError: not exactly one of MODEL and ``--all``, or ``--report`` without ``--all``.
    """
    if args.all:
        if args.model:
            raise InputError(f"give either a model or --all, not both ({args.model!r})")
        if args.fx:
            raise InputError("--fx writes the graph of one model: leave --all out")
        return _cover_all(args.report)
    if args.report:
        raise InputError("--report needs --all")
    if not args.model:
        raise InputError("which model? give an id, a folder or a config.json, or --all")
    if args.fx:
        _write_fx(args.model, args.dtype, args.fx)
    graph = _graph(args)
    summary = summarise(graph)
    if args.json:
        json.dump(summary, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print_tables(graph, summary)
    return 0


def _write_fx(model: str, dtype: str | None, file: Path) -> None:
    from servesim.models.build_graph import recorded_fx

    if not file.parent.is_dir():
        raise InputError(f"--fx {str(file)!r}: there is no such folder")
    config = resolve(model)
    file.write_text(recorded_fx(config, serving_dtype(config, dtype)) + "\n", encoding="utf-8")


def _graph(args: argparse.Namespace) -> OpGraph:
    """The graph asked for, its weights in the checkpoint's own formats."""
    cached = not args.no_cache
    if not args.vision:
        ranks = args.tensor_parallel_size
        graph = load_graph(args.model, tensor_parallel_size=ranks, dtype=args.dtype, cache=cached)
        return quantise(graph, resolve(args.model))
    if args.tensor_parallel_size != 1:
        raise InputError("--vision traces the whole tower: leave --tensor-parallel-size out")
    tower = load_tower(args.model, dtype=args.dtype, cache=cached)
    if tower is None:
        raise InputError(f"model {args.model!r} has no vision tower")
    return tower


def _cover_all(report: Path | None) -> int:
    """Trace every causal-LM type, one line each."""
    from rich.console import Console

    from servesim.models import build_coverage as coverage

    if report is not None and not report.parent.is_dir():
        raise InputError(f"--report {str(report)!r}: there is no such folder")
    console = Console()
    colours = {coverage.OK: "green", coverage.FAILED: "red"}

    def show(row: coverage.Row) -> None:
        colour = colours.get(row.verdict, "yellow")
        verdict = f"[{colour}]{row.verdict:<20}[/{colour}]"
        console.print(
            f"{row.model_type:<26} {verdict} {row.seconds:6.2f} s  {row.operators:4} operators  "
            f"[dim]{row.attention} {row.state} {row.note}[/dim]",
            highlight=False, overflow="ellipsis", no_wrap=True,
        )  # fmt: skip

    rows = coverage.cover_all(coverage.causal_types(), show)
    counts = Counter(row.verdict for row in rows)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    console.print(f"{len(rows)} types: {summary}")
    if report is not None:
        coverage.write_report(rows, report)
        console.print(f"written: {report}")
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
            work = (si(row["flops"], ""), si(row["bytes"], "B"))
            if not op.runs(ONE_TOKEN):
                work = ("[dim]decodes[/dim]", "[dim]only[/dim]")
            shape = " x ".join(map(str, row["shape"]))
            table.add_row(op.name, op.kind, shape, *work, si(op.spec.weight_bytes, "B"))
        console.print(table)
    console.print("[dim]FLOP and bytes of one run of the operator for a single token[/dim]")
    for item in unmatched(graph):
        console.print(
            f"[yellow]unmatched: {item.name} ({item.target}) in {item.block}: "
            f"{item.flops_share:.2%} of FLOP, {item.bytes_share:.2%} of bytes[/yellow]"
        )
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
