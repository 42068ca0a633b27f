"""Expert routing, one file a kind: how likely a token goes to each expert of each layer."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from servesim.registry import Registry

Chances = npt.NDArray[np.float64]


class Routing(Protocol):
    """How a router network chooses."""

    def chances(self, layers: int, experts: int, top_k: int) -> Chances:
        """(layers, experts): the chance that a token goes to the expert; rows add up to top_k.

        Raises:
            InputError: it does not fit so many layers or experts.
        """


ROUTINGS: Registry[Routing] = Registry("expert routing", "servesim.graph.routing")
