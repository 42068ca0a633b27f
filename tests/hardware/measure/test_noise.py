from hypothesis import given
from hypothesis import strategies as st

from servesim.hardware.measure.noise import FEWEST, MOST, estimate


def test_one_round_is_never_settled():
    found = estimate([2.0])
    assert (found.seconds, found.noise, found.settled) == (2.0, 1.0, False)


def test_the_median_stands_and_an_outlier_does_not():
    found = estimate([1.0, 1.0, 1.0, 50.0, 1.0])
    assert found.seconds == 1.0
    assert found.noise == 0.0
    assert found.settled


def test_noise_is_what_the_rounds_differ_by():
    # median 10, deviations 1 0 1: 1.25 * 1.48 * 1 / 10 / sqrt(3)
    found = estimate([9.0, 10.0, 11.0])
    assert abs(found.noise - 1.25 * 0.148 / 3**0.5) < 1e-12
    assert not found.settled


def test_noisy_kernels_are_given_up_on_at_last():
    assert estimate([1.0, 2.0] * (MOST // 2) + [3.0]).settled


@given(st.lists(st.floats(1e-6, 1.0), min_size=FEWEST, max_size=MOST), st.floats(0.5, 100.0))
def test_noise_is_relative(rounds, factor):
    plain, scaled = estimate(rounds), estimate([factor * x for x in rounds])
    assert abs(plain.noise - scaled.noise) < 1e-9
    assert abs(scaled.seconds - factor * plain.seconds) <= 1e-9 * scaled.seconds
