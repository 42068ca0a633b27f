from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from servesim.hardware.measure.curves import (
    TOLERANCE,
    fit_sum,
    held_out_sum_errors,
    left_out_errors,
    sum_errors,
    thinned,
)
from servesim.hardware.tables.grid import Curve


@given(st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=18))
def test_a_thinned_curve_passes_every_point_closely(ys):
    points = [(float(2**i), y) for i, y in enumerate(ys)]
    kept = thinned(points)
    curve = Curve.of(kept)
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert all(a[0] < b[0] for a, b in pairwise(kept))
    assert all(abs(curve.at(x) / y - 1) <= TOLERANCE + 1e-9 for x, y in points)


def test_a_line_needs_two_points():
    assert thinned([(x, 1.0 + x) for x in (1.0, 2.0, 4.0, 8.0)]) == [(1.0, 2.0), (8.0, 9.0)]


def test_an_inner_point_is_predicted_from_its_neighbours():
    # The line from (1, 1) to (3, 3) says 2 where 4 was measured.
    assert left_out_errors([(1.0, 1.0), (2.0, 4.0), (3.0, 3.0)]) == [-0.5]


def test_a_sum_finds_its_coefficients_and_no_others():
    rows = [
        ({"call": 1.0, "keys": float(n), "heat": float(n * n)}, 5e-6 + 2e-9 * n)
        for n in (1, 10, 100, 1000, 10000, 50)
    ]
    found = fit_sum(rows)
    assert found.get("heat", 0.0) < 1e-18
    assert abs(found["call"] / 5e-6 - 1) < 1e-3
    assert abs(found["keys"] / 2e-9 - 1) < 1e-3


def test_one_outlier_does_not_bend_a_sum():
    rows = [({"call": 1.0, "keys": float(n)}, 1e-6 + 1e-9 * n) for n in range(1, 4000, 100)]
    rows[7] = rows[7][0], 10 * rows[7][1]
    errors = sorted(map(abs, sum_errors(rows, fit_sum(rows))))
    assert errors[len(errors) // 2] < 0.01


def test_every_row_is_held_out_once():
    rows = [({"call": 1.0, "keys": float(n)}, 1e-6 + 1e-9 * n) for n in range(1, 12)]
    errors = held_out_sum_errors(rows)
    assert len(errors) == 11
    assert max(map(abs, errors.values())) < 1e-6
