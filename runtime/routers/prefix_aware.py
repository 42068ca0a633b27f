"""Where the prompt's prefix was sent before, as far as the router remembers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot


@ROUTERS.register("prefix_aware")
@dataclass(frozen=True)
class PrefixAware:
    """The instance that was sent the longest equal prefix, from an index of the router's own.

    Without a match, or when that instance has many more requests than another, the least loaded
    (SGLang's cache-aware router does so).

    Attributes:
        min_match: share of the prompt that must have been sent there.
        imbalance: requests that it may have more than the least loaded.
        index_blocks: prefix blocks remembered; the least lately used is forgotten.

    Raises:
        InputError: a value cannot be used.
    """

    min_match: float = 0.5
    imbalance: int = 32
    index_blocks: int = 1 << 20
    _index: OrderedDict[int, str] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not 0 <= self.min_match <= 1:
            raise InputError(f"min_match must be from 0 to 1, not {self.min_match}")
        if self.imbalance < 0 or self.index_blocks < 1:
            raise InputError("imbalance must not be negative and index_blocks at least 1")

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The instance that knows the prefix, if it is not overloaded."""
        idlest = min(range(len(instances)), key=lambda i: instances[i].load)
        chosen = self._matching(spec, instances)
        if chosen is None or instances[chosen].load > instances[idlest].load + self.imbalance:
            chosen = idlest
        self._remember(spec, instances[chosen].name)
        return chosen

    def _matching(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int | None:
        """The instance that was sent the longest prefix, if that is long enough."""
        places = {one.name: i for i, one in enumerate(instances)}
        prompt_blocks = spec.prompt_tokens // spec.prefix_block_size
        for blocks in range(min(len(spec.prefix_block_ids), prompt_blocks), 0, -1):
            if blocks * spec.prefix_block_size < self.min_match * spec.prompt_tokens:
                break
            name = self._index.get(spec.prefix_block_ids[blocks - 1])
            if name in places:
                return places[name]
        return None

    def _remember(self, spec: RequestSpec, name: str) -> None:
        for block in spec.prefix_block_ids:
            self._index[block] = name
            self._index.move_to_end(block)
        while len(self._index) > self.index_blocks:
            self._index.popitem(last=False)
