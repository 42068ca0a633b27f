"""Images of requests: when they are encoded, and what that takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from servesim.runtime.plan import Grant


class Encoder(Protocol):
    """What turns images into embeddings."""

    def seconds(self, images: Sequence[int]) -> float:
        """Seconds to encode images of so many embeddings each, together."""


@dataclass(frozen=True, slots=True)
class LinearEncoder:
    """An encoder without hardware: ``base_s``, and ``per_token_s`` for each embedding."""

    base_s: float = 0.0
    per_token_s: float = 0.0

    def seconds(self, images: Sequence[int]) -> float:
        """Seconds to encode ``images`` together."""
        return self.base_s + self.per_token_s * sum(images)


def encodable(grant: Grant, others: Iterable[Grant], budget: int) -> int:
    """How many of the tokens of ``grant`` a step takes that encodes at most ``budget`` embeddings.

    As in vLLM, a sequence gets no more than up to the image that is too much beside those of the
    ``others``; the largest image of the sequence always fits a step of its own.
    """
    images = grant.seq.spec.images
    if not images or grant.computed >= sum(images):
        return grant.new
    left = max(budget, *images) - sum(images_begun(others))
    for tokens, at in zip(images, accumulate(images, initial=-grant.computed), strict=False):
        if 0 <= at < grant.new:
            if tokens > left:
                return at
            left -= tokens
    return grant.new


def images_begun(grants: Iterable[Grant]) -> Iterator[int]:
    """Embeddings of each image whose first token is among ``grants``.

    As in vLLM, an image is encoded, whole, before the step in which its first token is computed;
    what the prefix cache holds of it needs no encoding. A request's images stand at the start of
    its prompt.
    """
    for seq, computed, new in grants:
        images = seq.spec.images
        if images and computed < sum(images):
            starts = accumulate(images, initial=0)
            for tokens, at in zip(images, starts, strict=False):
                if 0 <= at - computed < new:
                    yield tokens
