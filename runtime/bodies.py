"""Generated requests: their lengths and shared prefixes, whenever they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError, UnknownNameError
from servesim.runtime.lengths import LengthOption, Tokens, lengths, require_count
from servesim.runtime.request import RequestSpec
from servesim.runtime.streams import stream

#: Tokens of the blocks in which shared prefixes are described.
_BLOCK = 16
#: Blocks a shared prefix may have before two groups could meet.
_GROUP_BLOCKS = 1 << 24
_NONE_BY_DEFAULT = ("images", "prefix_tokens")
_LENGTHS = ("prompt_tokens", "output_tokens", "image_tokens", *_NONE_BY_DEFAULT)
#: More than anybody serves; the last weight is then 1e-60 of the first.
_MOST_ADAPTERS, _MOST_SKEW, _MOST_GROUPS = 10**6, 10, 10**8


@dataclass(frozen=True, kw_only=True)
class Bodies:
    """How many requests there are, how long, and what they share.

    Attributes:
        num_requests: how many.
        prompt_tokens, output_tokens: their lengths (see ``runtime/lengths``).
        prefix_groups: each request belongs to one of this many groups, at random; 0 for none.
        prefix_tokens: leading prompt tokens that a group has in common, in whole blocks of 16;
            drawn once for each group, and never more than a prompt has. Some prompt must be
            longer.
        adapters: each request is for one of this many LoRA adapters; 0 for the plain model.
        adapter_skew: how unevenly: the n-th most popular has a weight of ``n ** -adapter_skew``.
        images: of each request; 0 for none. Their tokens stand before those of ``prompt_tokens``.
        image_tokens: tokens of the language model that each image takes.
        seed: fixes everything random.
    """

    num_requests: int = 300
    prompt_tokens: LengthOption = 512
    output_tokens: LengthOption = 128
    prefix_groups: int = 0
    prefix_tokens: LengthOption = 0
    adapters: int = 0
    adapter_skew: float = 0.0
    images: LengthOption = 0
    image_tokens: LengthOption = 256
    seed: int = 0

    def __post_init__(self) -> None:
        require_count("num_requests", self.num_requests)
        if self.seed < 0:
            raise InputError(f"seed must not be negative, not {self.seed}")
        if not 0 <= self.adapters <= _MOST_ADAPTERS:
            raise InputError(f"adapters must be from 0 to {_MOST_ADAPTERS}, not {self.adapters}")
        if not 0 <= self.adapter_skew <= _MOST_SKEW:
            raise InputError(
                f"adapter_skew must be from 0 to {_MOST_SKEW}, not {self.adapter_skew}"
            )
        if not 0 <= self.prefix_groups <= _MOST_GROUPS:
            raise InputError(
                f"prefix_groups must be from 0 to {_MOST_GROUPS}, not {self.prefix_groups}"
            )
        if not self.prefix_groups and self.prefix_tokens != 0:
            raise InputError("prefix_tokens needs prefix_groups, which share them")
        if self.prefix_groups and self.prefix_tokens == 0:
            raise InputError("prefix_groups needs prefix_tokens, which they share")
        for name in _LENGTHS:
            if (option := getattr(self, name)) != 0 or name not in _NONE_BY_DEFAULT:
                _require_lengths(name, option)

    def bodies(self) -> RequestBodies:
        """The drawn requests.

        Raises:
            InputError: no prompt is as long as what a group shares.
        """
        count = self.num_requests
        if not self.prefix_groups:
            group, shared = np.zeros(count, np.int64), np.zeros(1, np.int64)
        else:
            rng = stream(self.seed, "prefixes")
            shared = lengths(self.prefix_tokens).sample(rng, self.prefix_groups)
            group = rng.integers(self.prefix_groups, size=count)
        prompts = self._drawn("prompt_tokens")
        images = self._images() if self.images != 0 else ()
        if not images and shared.min() > prompts.max():
            raise InputError(
                f"prefix_tokens: the shortest shared prefix, {shared.min()} tokens, is longer than "
                f"the longest prompt, {prompts.max()}"
            )
        return RequestBodies(
            prompts,
            self._drawn("output_tokens"),
            group,
            shared,
            self._adapters() if self.adapters else None,
            images,
        )

    def _adapters(self) -> Tokens:
        weights = np.arange(1, self.adapters + 1, dtype=np.float64) ** -self.adapter_skew
        rng = stream(self.seed, "adapters")
        return rng.choice(self.adapters, self.num_requests, p=weights / weights.sum())

    def _images(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of the images of each request."""
        counts = self._drawn("images")
        sizes = lengths(self.image_tokens).sample(
            stream(self.seed, "image_tokens"), int(counts.sum())
        )
        return tuple(
            tuple(int(size) for size in own) for own in np.split(sizes, np.cumsum(counts)[:-1])
        )

    def _drawn(self, name: str) -> Tokens:
        distribution = lengths(getattr(self, name))
        return distribution.sample(stream(self.seed, name), self.num_requests)


def _require_lengths(name: str, option: LengthOption) -> None:
    """Refuse a length that cannot be drawn, by its name."""
    try:
        lengths(option)
    except UnknownNameError:
        raise
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


@dataclass(frozen=True)
class RequestBodies:
    """Lengths, groups, adapters and images by request, and tokens shared by group."""

    prompt_tokens: Tokens
    output_tokens: Tokens
    group: Tokens
    shared_tokens: Tokens
    adapter: Tokens | None = None
    images: Sequence[tuple[int, ...]] = ()

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def request(self, number: int, arrival_s: float) -> RequestSpec:
        """Request ``number``, arriving at ``arrival_s``."""
        images = self.images[number] if self.images else ()
        prompt, group = int(self.prompt_tokens[number]) + sum(images), int(self.group[number])
        blocks = min(prompt, int(self.shared_tokens[group])) // _BLOCK
        first = group * _GROUP_BLOCKS
        return RequestSpec(
            id=number,
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=int(self.output_tokens[number]),
            prefix_block_ids=tuple(range(first, first + blocks)),
            prefix_block_size=_BLOCK,
            session=group if len(self.shared_tokens) > 1 else None,
            adapter=None if self.adapter is None else int(self.adapter[number]),
            images=images,
        )
