"""Where the prompt's KV is, unless that instance has too much to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot


@ROUTERS.register("kv_aware")
@dataclass(frozen=True)
class KvAware:
    """The least work: prompt tokens not found in an instance's KV cache, plus KV blocks in use.

    The instances tell what they hold at any moment, evictions included (as NVIDIA Dynamo's
    KV-aware router learns it from their events).

    Attributes:
        overlap_weight: how much a block to be computed counts against a block in use.

    Raises:
        InputError: a negative weight.
    """

    needs: ClassVar[tuple[str, ...]] = ("cached_tokens",)
    overlap_weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.overlap_weight >= 0:
            raise InputError(f"overlap_weight must not be negative, not {self.overlap_weight}")

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The instance with the least work, then that with the fewest requests."""
        size = spec.prefix_block_size

        def work(i: int) -> tuple[float, int]:
            one = instances[i]
            blocks = (spec.prompt_tokens - one.cached_tokens) / size
            used = one.kv_blocks - one.free_blocks
            return self.overlap_weight * blocks + used, one.load

        return min(range(len(instances)), key=work)
