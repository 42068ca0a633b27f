"""The shape of one step's batch: all that an operator graph may know of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class BatchShape:
    """New tokens and context of every sequence of a step, in the sums that kernels depend on.

    Attributes:
        prefills: (new tokens, context) of each sequence with several new tokens, or whose prompt
            is not finished; *context* counts tokens already in the KV cache before the step.
        decodes: sequences with exactly one new token after their prompt.
        decode_context: sum over the decodes of the context before the step.
        decode_context_max: the largest of them (0 without decodes).
        contexts: the decodes' contexts one by one, when the model needs more than their sum
            (sliding windows, chunked attention); int64, any order.
        padded_tokens: tokens that the step is padded to, where other ranks of a group have more.
        drafts: tokens beside its latest that each decode verifies (speculative decoding).
        shared_context: tokens of context, each counted once, that several decodes read: they
            hold the same KV blocks (prefix caching).
        repeated_context: how often such tokens are read again after the first time: the sum of
            contexts less the distinct tokens in them.
        group_tokens: tokens, after padding, of all data-parallel ranks that share experts; 0 when
            the ranks do not wait for each other.
    """

    prefills: tuple[tuple[int, int], ...] = ()
    decodes: int = 0
    decode_context: int = 0
    decode_context_max: int = 0
    contexts: npt.NDArray[np.int64] | None = None
    padded_tokens: int = 0
    group_tokens: int = 0
    drafts: int = 0
    shared_context: int = 0
    repeated_context: int = 0

    @classmethod
    def of(cls, sequences: Iterable[tuple[int, int]]) -> BatchShape:
        """From (new tokens, context) per sequence; one new token on a context is a decode."""
        prefills: list[tuple[int, int]] = []
        decodes: list[int] = []
        for new, context in sequences:
            if new == 1 and context > 0:
                decodes.append(context)
            elif new > 0:
                prefills.append((new, context))
        return cls(
            tuple(prefills),
            len(decodes),
            sum(decodes),
            max(decodes, default=0),
            np.asarray(decodes, dtype=np.int64),
        )

    @classmethod
    def of_tokens(cls, tokens: int) -> BatchShape:
        """One prefill of ``tokens`` on an empty context: for operators that see only tokens."""
        return cls(prefills=((tokens, 0),)) if tokens else cls()

    @property
    def tokens(self) -> int:
        """New tokens of the step: the M of every GEMM in the layers."""
        return self.decode_tokens + sum(new for new, _ in self.prefills)

    @property
    def decode_tokens(self) -> int:
        """New tokens of the decodes."""
        return self.decodes * (1 + self.drafts)

    @property
    def sequences(self) -> int:
        """Sequences in the step, each draft as one more: the rows of LM head and sampler."""
        return self.decode_tokens + len(self.prefills)

    def clipped_decode_context(self, window: int | None) -> int:
        """Sum over decodes of min(context, ``window``); the plain sum without a window.

        Raises:
            ValueError: a window can clip a context, but ``contexts`` is absent.
        """
        if window is None or self.decode_context_max <= window:
            return self.decode_context
        if self.contexts is None:
            raise ValueError("a windowed operator needs the contexts of the decodes one by one")
        return int(np.minimum(self.contexts, window).sum())
