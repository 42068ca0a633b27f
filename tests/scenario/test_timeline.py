"""Sums over steps, spread over bins of time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servesim.scenario.timeline import spread


def test_by_hand() -> None:
    starts, ends = np.array([0.0, 2.0]), np.array([1.0, 4.0])
    got = spread(starts, ends, np.array([6.0, 8.0]), np.array([0.0, 0.5, 3.0, 4.0]))
    assert got.tolist() == [3.0, 3.0 + 4.0, 4.0]


@given(st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 2), st.floats(0, 100)), min_size=1))
def test_nothing_is_lost(rows: list[tuple[float, float, float]]) -> None:
    lengths, gaps, amounts = (np.array(column) for column in zip(*rows, strict=True))
    ends = np.cumsum(lengths + gaps)
    edges = np.linspace(0, ends[-1], 8)
    got = spread(ends - lengths, ends, amounts, edges)
    assert (got >= -1e-9).all()
    assert got.sum() == pytest.approx(amounts.sum())
