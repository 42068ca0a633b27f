"""Routing as recorded from a run of the model."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servesim.errors import InputError
from servesim.graph.routing import ROUTINGS, Chances


@ROUTINGS.register("recorded")
@dataclass(frozen=True)
class Recorded:
    """Tokens counted by layer and expert.

    Attributes:
        path: a CSV file with a row for each layer that has experts, a column for each expert and
            no header: tokens that went there.
    """

    path: Path

    def chances(self, layers: int, experts: int, top_k: int) -> Chances:
        """The counts as shares of each layer's tokens."""
        counts = self._counts()
        if counts.shape != (layers, experts):
            raise InputError(
                f"{self.path} counts {counts.shape[1]} experts in {counts.shape[0]} layers; the"
                f" model has {experts} in {layers}"
            )
        totals = counts.sum(axis=1, keepdims=True)
        found = counts * top_k / np.where(totals > 0, totals, 1.0)
        if (totals <= 0).any() or (counts < 0).any() or (found > 1 + 1e-9).any():
            raise InputError(
                f"{self.path}: counts must be of tokens that each go to {top_k} different experts"
            )
        return np.asarray(np.minimum(found, 1.0))

    def _counts(self) -> Chances:
        try:
            rows = list(csv.reader(self.path.read_text(encoding="utf-8").splitlines()))
            counts = np.array([[float(cell) for cell in row] for row in rows if row])
        except OSError as error:
            raise InputError(f"routing {self.path}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"routing {self.path}: {error}") from error
        if counts.ndim != 2:
            raise InputError(f"routing {self.path}: no rows")
        return counts
