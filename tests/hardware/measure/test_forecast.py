import pytest

from servesim.graph.work import GemmWork
from servesim.hardware.measure.forecast import USUAL, Speed, affordable, forecast, reached
from servesim.hardware.measure.noise import Estimate
from servesim.hardware.measure.plan import Group, Limits, plan
from servesim.hardware.measure.probes import Probe

LIMITS = Limits(tokens=32, sequences=4, context=64)


class Spec:
    kind = "gemm"


def test_three_rounds_of_setup_and_of_five_calls_at_half_the_peak():
    # 2e9 FLOP at half of 1e9 FLOP/s: 4 s a call
    works = {"large": GemmWork(1000, 1000, 1000), "small": GemmWork(1, 1, 1)}
    (found,) = forecast([Group(Spec, works)], Speed(1e9, 1e12))
    assert (found.kind, found.operators, found.kernels) == ("gemm", 1, 2)
    assert found.seconds == pytest.approx(3 * (0.02 + 5 * 4.0 + 0.02 + 0.012))


def test_sizes_are_left_out_when_time_is_short(graph):
    groups = plan([graph], LIMITS)
    everything = sum(len(g.works) for g in groups)
    assert affordable(groups, USUAL["cpu"], 1e6) == groups
    fewer = sum(len(g.works) for g in affordable(groups, USUAL["cpu"], 1.0))
    assert fewer < everything / 2


def test_speeds_are_the_best_product_and_the_worst_read():
    peaks = {
        Probe("arithmetic", 8, 1e9): Estimate(1e-3, 0.0, 3),
        Probe("arithmetic", 16, 4e9): Estimate(2e-3, 0.0, 3),
        Probe("read", 8, 1e6): Estimate(1e-5, 0.0, 3),
        Probe("read", 16, 1e6): Estimate(1e-4, 0.0, 3),
    }
    assert reached(peaks) == Speed(2e12, pytest.approx(1e10))
    assert reached({}) == USUAL["cpu"]
