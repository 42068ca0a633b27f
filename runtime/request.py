"""A request as a workload states it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from servesim.errors import InputError


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One request: when it comes, how long it is, and what it shares with others.

    Attributes:
        id: the request's name in every output.
        arrival_s: seconds since the start of the run.
        prompt_tokens, output_tokens: lengths; generation stops exactly at ``output_tokens``.
        max_tokens: where it would stop at the latest, all that an engine knows beforehand; None if
            that is ``output_tokens``.
        cancel_after_s: seconds after its arrival at which the client gives it up, unless it is
            answered; None if never.
        prefix_block_ids: identity, from 0 on, of each full block of the sequence from its start:
            equal ids mean an equal prefix up to and including that block. May cover the prompt,
            or go on into the output. Blocks beyond it are shared with no other request.
        prefix_block_size: tokens of each of those blocks; one size in a workload.
        priority: lower is more urgent; only the priority policy looks at it.
        model: which model must answer; None if any instance will do.
        adapter: number of the LoRA adapter it is for; None for the plain model.
        session: whose conversation it belongs to; only routers look at it.
        images: tokens of the prompt that each of its images takes; they stand at its start.

    Raises:
        InputError: a time or length cannot be used.
    """

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_block_ids: tuple[int, ...] = ()
    prefix_block_size: int = 16
    priority: int = 0
    model: str | None = None
    session: int | None = None
    adapter: int | None = None
    images: tuple[int, ...] = ()
    max_tokens: int | None = None
    cancel_after_s: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_s) and self.arrival_s >= 0):
            raise InputError(f"arrival_s must be a time from 0 on, not {self.arrival_s}")
        if self.prompt_tokens < 1:
            raise InputError(f"prompt_tokens must be at least 1, not {self.prompt_tokens}")
        if self.output_tokens < 1:
            raise InputError(f"output_tokens must be at least 1, not {self.output_tokens}")
        if self.max_tokens is not None and self.max_tokens < self.output_tokens:
            raise InputError(
                f"max_tokens must be at least output_tokens, {self.output_tokens}, not "
                f"{self.max_tokens}"
            )
        if self.cancel_after_s is not None and not self.cancel_after_s >= 0:
            raise InputError(f"cancel_after_s must not be negative, not {self.cancel_after_s}")
        if self.adapter is not None and self.adapter < 0:
            raise InputError(f"adapters are numbered from 0, not {self.adapter}")
        if self.images and not (min(self.images) > 0 and sum(self.images) <= self.prompt_tokens):
            raise InputError(
                f"images are parts of the prompt of {self.prompt_tokens} tokens, not {self.images}"
            )
        if self.prefix_block_size < 1:
            raise InputError(f"prefix_block_size must be at least 1, not {self.prefix_block_size}")
        if self.prefix_block_ids and min(self.prefix_block_ids) < 0:
            raise InputError(f"prefix_block_ids start at 0, not {min(self.prefix_block_ids)}")
        covered = len(self.prefix_block_ids) * self.prefix_block_size
        total = self.prompt_tokens + self.output_tokens
        if covered > total:
            raise InputError(
                f"{len(self.prefix_block_ids)} prefix_block_ids of {self.prefix_block_size} tokens "
                f"do not fit a sequence of {total} tokens"
            )
