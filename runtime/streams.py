"""Random numbers: one independent stream for each purpose, fixed by seed and name."""

from __future__ import annotations

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of purpose ``name``; others drawing more or less does not shift it."""
    return np.random.default_rng([seed, *name.encode()])
