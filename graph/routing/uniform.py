"""Every expert alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servesim.graph.routing import ROUTINGS, Chances


@ROUTINGS.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every expert is as likely as any other: what load-balanced training aims at."""

    def chances(self, layers: int, experts: int, top_k: int) -> Chances:
        """``top_k / experts`` each."""
        return np.full((layers, experts), top_k / experts)
