"""Collectives: closed forms by hand, curves between and beyond what was measured."""

from dataclasses import replace
from itertools import pairwise

import pytest
from bridged_devices import CALIBRATED, all_reduce, bridged

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.work import CollectiveWork, GemmWork
from servesim.hardware.all_reduce import CUSTOM_LIMIT, limits_of
from servesim.hardware.calibrate.collective_fit import fitted_form
from servesim.hardware.calibrate.collectives import CollectiveSample
from servesim.hardware.collective_tables import collective_cost, read_curves
from servesim.hardware.collectives import (
    EFFICIENCY,
    LAUNCH,
    WIRE,
    CollectiveCost,
    RankCurves,
    closed_form,
)
from servesim.hardware.cost import Source
from servesim.hardware.forms.collective import CollectiveForm
from servesim.hardware.link import Link
from servesim.hardware.load import device_names, load_device
from servesim.hardware.tables.grid import Curve

LINK = Link("wire", bandwidth=1e9 / EFFICIENCY, latency=1e-6, devices=8)


def test_closed_forms_by_hand():
    # Ring: 2·3 messages of 1 µs, and 2·3/4 MB at 1 GB/s; one-shot would move 3 MB.
    assert closed_form(LINK, "all_reduce", 4, 1e6) == pytest.approx(LAUNCH + 6e-6 + 1500e-6)
    # One-shot: one message and 3 kB.
    assert closed_form(LINK, "all_reduce", 4, 1e3) == pytest.approx(LAUNCH + 1e-6 + 3e-6)
    assert closed_form(LINK, "all_gather", 4, 1e6) == pytest.approx(LAUNCH + 3e-6 + 750e-6)
    assert closed_form(LINK, "all_to_all", 4, 1e6) == pytest.approx(LAUNCH + 1e-6 + 750e-6)
    assert closed_form(LINK, "send", 2, 1e6) == pytest.approx(LAUNCH + 1e-6 + 1000e-6)


def test_without_peer_access_by_hand():
    link = replace(LINK, bandwidth=1e9, peer_access=False)
    # NCCL's LL: 6.6 µs, two steps of 1 µs, every byte with as many of flags.
    assert closed_form(link, "all_reduce", 2, 1e3) == pytest.approx(8.6e-6 + 2e-6)
    # NCCL's Simple: 8.4 µs and two steps of 5.7 µs.
    assert closed_form(link, "all_reduce", 2, 1e6) == pytest.approx(19.8e-6 + 1e-3)


def test_curves_are_for_devices_with_peer_access():
    device = load_device("rtx_pro_6000")
    direct = collective_cost(device, load_device, device.host_link).cost(all_reduce(1e6, 2))
    staged = collective_cost(device, load_device).cost(all_reduce(1e6, 2))
    assert (direct.source, staged.source) == (Source.CALIBRATED, Source.ANALYTICAL)
    assert direct.seconds < staged.seconds / 2


def test_a_faster_link_moves_more_in_the_same_time():
    device = load_device("rtx_pro_6000")
    fast = replace(device.host_link, bandwidth=2 * device.host_link.bandwidth)
    there = collective_cost(device, load_device, fast).cost(all_reduce(2**26, 2))
    here = collective_cost(device, load_device, device.host_link).cost(all_reduce(2**25, 2))
    assert there.seconds == pytest.approx(here.seconds)
    assert there.source == Source.ANALYTICAL


def test_nothing_to_send_takes_no_time():
    costs = CollectiveCost(LINK)
    assert costs.cost(all_reduce(1e6, 1)).seconds == 0
    assert costs.cost(all_reduce(0.0, 4)).seconds == 0


def test_refusals():
    costs = CollectiveCost(LINK)
    with pytest.raises(UnsupportedError, match="wire joins 8"):
        costs.cost(all_reduce(1e6, 16))
    with pytest.raises(UnsupportedError, match="unknown collective"):
        costs.cost(CollectiveWork("all_rejoice", 1e6, 2))
    with pytest.raises(UnsupportedError, match="gemm"):
        costs.cost(GemmWork(1, 1, 1))


def curves(**ranks):
    return RankCurves(
        "all_reduce",
        {int(n[1:]): Curve.of(points) for n, points in ranks.items()},
    )


def test_ranks_between_and_beyond_the_measured_ones():
    known = curves(r2=[(0, 2.0), (1000, 12.0)], r4=[(0, 4.0), (1000, 19.0)])
    # Latency 3, wire of 3 ranks is 4/3: two thirds of the way from 1 to 3/2.
    assert known.at(3, 1000) == pytest.approx(3 + 10 + 2 / 3 * 5)
    # Latency goes on at 1 a rank; wire of 8 is 7/4: half a step further.
    assert known.at(8, 1000) == pytest.approx(8 + 10 + 1.5 * 5)
    assert not known.covers(8, 1000)
    assert known.covers(3, 1000)
    assert not known.covers(3, 1001)


def test_the_engines_own_all_reduce_is_for_small_payloads_of_its_ranks():
    slow = RankCurves("all_reduce", {2: Curve.of([(1, 9.0), (1e9, 9.0)])})
    fast = RankCurves("all_reduce", {2: Curve.of([(1, 1.0), (1e9, 1.0)])})
    costs = CollectiveCost(LINK, {"all_reduce": slow, "custom_all_reduce": fast})
    assert costs.cost(all_reduce(CUSTOM_LIMIT - 1, 2)).seconds == 1
    assert costs.cost(all_reduce(CUSTOM_LIMIT, 2)).seconds == 9
    assert costs.cost(all_reduce(1000, 4)).seconds > 1
    assert costs.cost(all_reduce(1000, 4)).source == Source.EXTRAPOLATED


def test_which_all_reduce_the_engine_takes():
    hopper, blackwell = limits_of("hopper", True), limits_of("blackwell", True)
    custom, symmetric, mib = "custom_all_reduce", "symmetric_all_reduce", 2**20
    assert hopper.kernel(8, mib / 4 - 1) == hopper.kernel(4, 8 * mib - 1) == custom
    assert hopper.kernel(8, mib / 4) == hopper.kernel(4, 8 * mib) == symmetric
    assert hopper.kernel(2, 64 * mib) == symmetric
    assert hopper.kernel(2, 64 * mib + 1) is None
    assert blackwell.kernel(2, 2 * mib - 1) == custom
    assert blackwell.kernel(2, 2 * mib) == blackwell.kernel(2, 8 * mib) == symmetric
    assert blackwell.kernel(16, 1) is None
    for plain in (limits_of("hopper", False), limits_of("", True)):
        assert [plain.kernel(8, n) for n in (8 * mib - 1, 8 * mib)] == [custom, None]
        assert plain.kernel(3, 1) is None


def test_kernels_whose_ranks_differ_have_a_line_for_each():
    name, byte = "symmetric_all_reduce", {2: 4e-12, 4: 3e-12, 8: 3.5e-12}
    form = CollectiveForm("all_reduce", {2: 9e-6, 4: 8e-6, 8: 9e-6}, byte)
    samples = [
        CollectiveSample(name, r, 2.0**i, form.at(r, 2.0**i)) for r in byte for i in (20, 25)
    ]
    found = fitted_form(name, samples)
    assert found.byte == pytest.approx(byte)
    assert found.latency == pytest.approx(form.latency)


def test_borrowed_curves_scale_with_the_link_and_count_as_analytical():
    lender, borrower = load_device("h100_sxm"), load_device("h800_sxm")
    lent, borrowed = (collective_cost(d, load_device) for d in (lender, borrower))
    speed = borrower.scale_up.bandwidth / lender.scale_up.bandwidth
    there = borrowed.cost(all_reduce(2**28 * speed, 8))
    assert there.seconds == pytest.approx(lent.cost(all_reduce(2**28, 8)).seconds)
    assert there.source == Source.ANALYTICAL


@pytest.mark.parametrize("name", device_names())
def test_a_link_carries_what_it_carries(name):
    device = load_device(name)
    costs = collective_cost(device, load_device)
    for n in (n for n in (2, 4, 8) if n <= (device.peer_link.devices or n)):
        # The whole payload must cross at least once.
        at_least = 2**28 / (2 * device.peer_link.bandwidth)
        assert costs.cost(all_reduce(2.0**28, n)).seconds > at_least


PAYLOADS = [1024 * 1.1**i for i in range(145)]  # to 1 GiB


@pytest.mark.parametrize("name", [*CALIBRATED, "gb200", "gh200"])
def test_more_bytes_are_never_cheaper(name):
    costs, most = bridged(name)
    for operation, known in costs.curves.items():
        for n in sorted({n for n in (2, 3, 4, 6, 8, most) if n <= most}):
            times = [known.at(n, payload) for payload in PAYLOADS]
            assert times[0] > 0
            assert all(b >= a * (1 - 1e-12) for a, b in pairwise(times)), (operation, n)


@pytest.mark.parametrize("name", [*CALIBRATED, "gb200", "gh200"])
def test_more_ranks_than_were_measured_are_never_cheaper(name):
    costs, _ = bridged(name)
    for operation, known in costs.curves.items():
        measured = max(n for n in range(2, 9) if known.spans(n))
        for payload in PAYLOADS[::4]:
            times = [known.at(n, payload) for n in (measured, *range(9, 73, 3))]
            assert all(b >= a * (1 - 1e-12) for a, b in pairwise(times)), (operation, payload)


@pytest.mark.parametrize("name", CALIBRATED)
def test_large_payloads_take_what_a_link_needs_for_them(name):
    costs, _ = bridged(name)
    for operation, known in costs.curves.items():
        for ranks, byte in known.bulk_byte.items():
            needed = WIRE[known.operation](ranks) / costs.link.bandwidth
            assert byte > needed * 0.995, (operation, ranks)  # as written, with three digits


def test_beyond_what_was_measured_no_link_carries_more_than_its_bandwidth():
    known = CollectiveForm("all_gather", {2: 1e-6}, {2: 1e-15}, most_bytes=1e6)
    costs = CollectiveCost(replace(LINK, bandwidth=1e9), {"all_gather": known})

    def seconds(payload):
        return costs.cost(CollectiveWork("all_gather", payload, 2)).seconds

    assert seconds(1e6) == pytest.approx(1e-6, rel=0.01)  # as measured, whatever the data sheet
    assert seconds(4e6) == pytest.approx(2e-3)


def test_malformed_tables():
    good = {"sizes": [1, 2, 4], "all_reduce": {"ranks_2": [1.0, 2.0]}}
    assert read_curves(good, "x")["all_reduce"].at(2, 2) == pytest.approx(2e-6)
    with pytest.raises(UnknownNameError, match="did you mean 'all_reduce'"):
        read_curves({"sizes": [1, 2], "allreduce": {}}, "x")
    with pytest.raises(UnknownNameError, match=r"coefficient in x .*all_reduce.*'rampe'"):
        read_curves({"all_reduce": {"rampe": 1e-6}}, "x")
    with pytest.raises(InputError, match=r"all_reduce\]: sizes is missing, .* ranks_2"):
        read_curves({"all_reduce": {"ranks_2": [1.0, 2.0]}}, "x")
    with pytest.raises(InputError, match="latency and byte are missing"):
        read_curves({"all_reduce": {"latency": {"2": 1e-6}}}, "x")
    with pytest.raises(InputError, match="1 = 1e-06 is no time by ranks"):
        read_curves({"all_reduce": {"latency": {"1": 1e-6}, "byte": {"2": 1e-12}}}, "x")
    with pytest.raises(InputError, match="ranks_1"):
        read_curves({"sizes": [1, 2], "all_reduce": {"ranks_1": [1.0, 2.0]}}, "x")
    for row in ([1.0, -2.0], [1.0], 3, ["a", "b"]):
        with pytest.raises(InputError, match="2 positive microseconds"):
            read_curves({"sizes": [1, 2], "all_reduce": {"ranks_2": row}}, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency": 5e-6}, "latency must be given by ranks, .* not 5e-06"),
        ({"latency": {"2": "x"}}, "latency: 2 = 'x' is no time by ranks"),
        ({"ramp": {"2": 1e-6}}, "ramp must be a number, not {'2': 1e-06}"),
        ({"most_bytes": "many"}, "most_bytes must be a number, not 'many'"),
        ({"bulk_byte": {"2": 1e-12}}, "bulk_byte needs switch too"),
        ({"switch": 4096}, "switch needs bulk_latency too"),
    ],
)
def test_coefficients_of_the_wrong_kind(change, message):
    good = {"latency": {"2": 1e-6}, "byte": {"2": 1e-12}}
    assert read_curves({"send": good}, "x")["send"].at(2, 1e6) == pytest.approx(2e-6)
    with pytest.raises(InputError, match=r"^x \[calibration.collective.send\]: " + message):
        read_curves({"send": {**good, **change}}, "x")


def test_tables_of_the_wrong_kind():
    with pytest.raises(InputError, match="all_reduce must be a table, not 3"):
        read_curves({"all_reduce": 3}, "x")
    with pytest.raises(InputError, match="sizes must be a list of numbers, not 3"):
        read_curves({"sizes": 3, "all_reduce": {"ranks_2": [1.0, 2.0]}}, "x")
