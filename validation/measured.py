"""One form for every measured serving run, whoever measured it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from servesim.errors import InputError


@dataclass(frozen=True, slots=True)
class MeasuredRequest:
    """One request of a measured run; times in seconds since the start of the run.

    Attributes:
        arrival_s: when the measuring clock starts: the request reached the engine or left the
            client, as ``MeasuredRun.clock`` says.
        first_token_s, finished_s: when its first and last token came.
        prefix_block_ids: identity of each full prompt block: equal ids, equal prefix.
    """

    id: int
    arrival_s: float
    first_token_s: float
    finished_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_block_ids: tuple[int, ...] = ()

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float:
        """Time from arrival to the last token."""
        return self.finished_s - self.arrival_s

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first; nan for a single token."""
        if self.output_tokens < 2:
            return math.nan
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True)
class MeasuredRun:
    """What was run, and what came out.

    Attributes:
        name: the run's folder or file.
        hardware: the device's name as the source gives it.
        model: the model's id.
        hf_config: its config.json, where the source keeps it; None for a built-in one.
        engine: engine options by vLLM's names.
        requests: in order of arrival.
        clock: ``engine`` if ``arrival_s`` is stamped when the engine takes a request from its
            queue between two steps, ``client`` if when it was handed to the engine, ``server`` if
            when its client sent it to the server in front of the engine.
        source: who measured it and when.
        fused: whether the engine's kernels are fused as vLLM's (see ``ModelSection``).
        experts: tokens that went to each expert of each layer that has some; empty if unknown.
    """

    name: str
    hardware: str
    model: str
    hf_config: Mapping[str, Any] | None
    engine: Mapping[str, Any]
    requests: tuple[MeasuredRequest, ...]
    clock: Literal["engine", "client", "server"]
    source: str = ""
    notes: tuple[str, ...] = field(default=())
    fused: bool = True
    experts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.requests:
            raise InputError(f"measured run {self.name!r} has no requests")

    @property
    def makespan_s(self) -> float:
        """From the first arrival to the last token."""
        start = min(r.arrival_s for r in self.requests)
        return max(r.finished_s for r in self.requests) - start
