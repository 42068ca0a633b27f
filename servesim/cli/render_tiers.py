"""Memories below the devices', on the terminal."""

from __future__ import annotations

from rich.table import Table

from servesim.cli.render import columns
from servesim.scenario.run import Result
from servesim.units import binary


def tiers_table(result: Result) -> Table:
    """What each held at most, moved, and spared: tokens over those of all prompts."""
    table = columns("tier", "pool", "peak", "written", "read", "hits", text=2)
    prompts = int(result.records.requests.column("prompt_tokens").sum())
    for tier in result.records.tiers:
        table.add_row(
            tier.name,
            tier.pool,
            binary(float(tier.column("resident_bytes").max(initial=0.0))),
            binary(float(tier.column("written_bytes").max(initial=0.0))),
            binary(float(tier.column("read_bytes").max(initial=0.0))),
            f"{tier.column('hit_tokens').max(initial=0.0) / max(prompts, 1):.1%}",
        )
    return table
