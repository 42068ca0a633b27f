"""Tracing every causal-LM type that ``transformers`` knows, and what came of it."""

from __future__ import annotations

import csv
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from servesim.errors import ServesimError
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.recurrent import Recurrent
from servesim.graph.unmatched import unmatched
from servesim.models.build import first_line, instantiate, quiet
from servesim.models.build_facts import NOT_STANDALONE, default_values
from servesim.models.build_graph import Traced, trace_module

OK, PARTIAL, NOT_A_MODEL, FAILED = "ok", "prefill only", "no stand-alone model", "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one model type.

    Attributes:
        verdict: ``ok`` (prefill and decode traced), ``prefill only``, ``no stand-alone model`` or
            ``failed``; ``note`` says why.
        config: where the values came from: ``defaults`` of the config class, or ``facts``.
        operators: operators of the distinct layers and of what stands around them.
        kinds: operators by kind.
        attention, state: kinds of attention and of what is kept between steps.
        unmatched_flops, unmatched_bytes: share of operators that no pattern claimed.
    """

    model_type: str
    verdict: str
    config: str = ""
    seconds: float = 0.0
    parameters: int = 0
    layers: int = 0
    distinct_layers: int = 0
    operators: int = 0
    kinds: str = ""
    attention: str = ""
    state: str = ""
    unmatched_flops: float = 0.0
    unmatched_bytes: float = 0.0
    note: str = ""


def causal_types() -> tuple[str, ...]:
    """Every model type of the causal-LM mapping."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def trace_type(model_type: str) -> Traced:
    """Trace the type's default model, with the facts its defaults lack.

    Raises:
        ServesimError: it cannot be traced.
        Exception: its config does not build.
    """
    from servesim.graph.trace import hooks

    hooks.install()
    from transformers import CONFIG_MAPPING

    with quiet():
        config = CONFIG_MAPPING[model_type](**default_values(model_type))
        model = instantiate(config, "bf16")
    return trace_module(model, model_type, "bf16")


def cover(model_type: str) -> Row:
    """Trace one type and say what came of it; never raises for the model's sake."""
    if model_type in NOT_STANDALONE:
        return Row(model_type, NOT_A_MODEL, note=NOT_STANDALONE[model_type])
    source = "facts" if default_values(model_type) else "defaults"
    start = time.perf_counter()
    try:
        traced = trace_type(model_type)
    except ServesimError as error:
        return Row(model_type, FAILED, source, note=str(error))
    except Exception as error:
        return Row(model_type, FAILED, source, note=first_line(error))
    seconds = round(time.perf_counter() - start, 2)
    return _row(model_type, source, seconds, traced)


def _row(model_type: str, source: str, seconds: float, traced: Traced) -> Row:
    graph = traced.graph
    strange = unmatched(graph)
    problem = "" if not traced.decode else decode_problem(graph, traced.decode)
    verdict = OK if traced.decode else PARTIAL
    specs = [op.spec for block in graph.blocks for op in block.ops]
    return Row(
        model_type=model_type,
        verdict=verdict,
        config=source,
        seconds=seconds,
        parameters=graph.parameters,
        layers=graph.num_layers,
        distinct_layers=sum(bool(b.layers) for b in graph.blocks),
        operators=len(specs),
        kinds=_counts(spec.kind for spec in specs),
        attention=_counts(attention_kind(s) for s in specs if isinstance(s, Attention)),
        state=_counts(
            [c.kind for c in graph.caches if c.kind != "state"]
            + [s.recurrence for s in specs if isinstance(s, Recurrent)]
        ),
        unmatched_flops=round(sum(u.flops_share for u in strange), 6),
        unmatched_bytes=round(sum(u.bytes_share for u in strange), 6),
        note="; ".join([problem, *graph.notes] if problem else graph.notes),
    )


def attention_kind(spec: Attention) -> str:
    """One word for a kind of attention."""
    for kind, present in (
        ("latent", spec.latent),
        ("sparse", spec.selected is not None),
        ("chunked", spec.chunk is not None),
        ("sliding", spec.window is not None),
        ("shared", spec.shared_kv),
    ):
        if present:
            return kind
    return "full"


def decode_problem(graph: OpGraph, decode: tuple[Block, ...]) -> str:
    """What a decode step multiplies by that the prefill does not, or the reverse; "" if nothing."""
    prefill_gemms, decode_gemms = _gemms(graph.blocks), _gemms(decode)
    if prefill_gemms == decode_gemms:
        return ""
    missing = sorted((prefill_gemms - decode_gemms) | (decode_gemms - prefill_gemms))
    return f"prefill and decode differ in {missing[0][0]} and {len(missing) - 1} more"


def _gemms(blocks: Iterable[Block]) -> set[tuple[str, int, int]]:
    return {
        (op.scope, op.spec.n, op.spec.k)
        for block in blocks
        for op in block.ops
        if isinstance(op.spec, Gemm)
    }


def _counts(names: Iterable[str]) -> str:
    return " ".join(f"{name}:{count}" for name, count in sorted(Counter(names).items()))


def cover_all(types: Iterable[str], done: Callable[[Row], None]) -> list[Row]:
    """A row for every type, in order; ``done`` sees each as it comes."""
    rows = []
    for model_type in types:
        rows.append(cover(model_type))
        done(rows[-1])
        gc.collect()
    return rows


def write_report(rows: Iterable[Row], file: Path) -> None:
    """Write the rows as CSV."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
