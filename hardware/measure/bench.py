"""What a family of kernels offers to be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from servesim.graph.work import Work
from servesim.hardware.measure.timer import Call


@dataclass(frozen=True, slots=True)
class Room:
    """Where kernels run, and how much memory they may use.

    Attributes:
        device: ``cpu`` or ``cuda``.
        cycled_bytes: operands that stay (weights, KV cache) exist in so many copies that between
            two uses of one as much of the others passes, as in a model of many layers, and no
            cache holds it, not even a part of what is larger.
        most_bytes: no kernel takes more.
        block_size: tokens of a block of the KV cache, where that is paged.
    """

    device: str
    cycled_bytes: float
    most_bytes: float
    block_size: int = 128

    def copies(self, each: float) -> int:
        """Copies of operands of ``each`` bytes to go round."""
        fitting = max(1, int(self.most_bytes // max(each, 1.0)))
        return min(64, fitting, 1 + math.ceil(self.cycled_bytes / max(each, 1.0)))


class Bench(Protocol):
    """Operands of one operator, ready for batches of any size."""

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` once with each copy of the operands."""


#: Makes the bench of an operator's spec; raises ``UnsupportedError`` where it has no kernel.
Maker = Callable[[Any, Room], Bench]
