"""Speculative decoding: how many drafted tokens a step verifies, and how many of them are right.

A decoding sequence computes its latest token and ``num_speculative_tokens`` drafted ones in one
step. Those before the first wrong one are kept, and the model's own token after them is right by
itself: a step gives between 1 and k + 1 tokens. With every draft right at a chance of a,
independently, that is (1 - a^(k+1)) / (1 - a) in the mean (Leviathan et al., Fast Inference from
Transformers via Speculative Decoding, 2023, equation 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.registry import require_known

#: vLLM's ``method``: a look-up in the prompt, a model of its own, heads on the target's states.
METHODS = ("ngram", "ngram_gpu", "draft_model", "eagle", "eagle3", "mtp")


@dataclass(frozen=True, slots=True)
class Speculation:
    """vLLM's ``speculative_config``, and how well its drafts do.

    Attributes:
        method: who drafts; ``ngram``, ``ngram_gpu``, ``draft_model``, ``eagle``, ``eagle3`` or
            ``mtp``.
        num_speculative_tokens: drafted in a step for each decoding sequence.
        model: the draft model, for ``draft_model``.
        acceptance_rate: chance that a drafted token is right if all before it are; one number, or
            one for each position.
        proposal_rate: share of a sequence's steps for which there is a draft at all (a look-up
            finds nothing for the others).
        seed: of the draws.

    Raises:
        InputError: a value cannot be used.
    """

    method: str = "ngram"
    num_speculative_tokens: int = 3
    model: str | None = None
    acceptance_rate: float | Sequence[float] = 0.7
    proposal_rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError("speculative method", str(self.method), METHODS)
        tokens = self.num_speculative_tokens
        if not isinstance(tokens, int) or tokens < 1:
            raise InputError(f"num_speculative_tokens must be at least 1, not {tokens!r}")
        if len(self.rates) != tokens:
            raise InputError(
                f"acceptance_rate gives {len(self.rates)} positions; num_speculative_tokens is"
                f" {tokens}"
            )
        for rate in (*self.rates, self.proposal_rate):
            if not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise InputError(f"acceptance and proposal rates must be in [0, 1], not {rate!r}")
        if (self.method == "draft_model") != (self.model is not None):
            raise InputError("speculative_config needs a model for method draft_model, and only it")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Speculation:
        """From a table.

        Raises:
            UnknownNameError: no such option.
            InputError: a value cannot be used.
        """
        require_known("option of speculative_config", options, cls)
        return cls(**options)

    @property
    def ahead(self) -> bool:
        """Whether a step can be scheduled before its drafts are there (not those of the host)."""
        return self.method != "ngram"

    @property
    def lookahead(self) -> int:
        """Tokens beyond those of a step for which a sequence holds blocks: a drafter's own."""
        return 0 if self.method.startswith("ngram") else self.num_speculative_tokens

    @property
    def slots(self) -> int:
        """Tokens of a step that each sequence takes beside its own."""
        return int(self.method == "draft_model")

    @property
    def drops_block(self) -> bool:
        """Whether the last block of a cached prefix is not used: hidden states are lacking."""
        return self.method in ("eagle", "eagle3", "mtp")

    @property
    def rates(self) -> tuple[float, ...]:
        """Acceptance rate of each position."""
        given = self.acceptance_rate
        if isinstance(given, Sequence):
            return tuple(given)
        return (given,) * self.num_speculative_tokens

    @property
    def tokens_each(self) -> int:
        """Tokens that a decoding sequence computes in a step."""
        return 1 + self.num_speculative_tokens
