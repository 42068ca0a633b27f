"""Calibrated devices: sources, borrowing, limits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.graph.work import (
    AttentionWork,
    CollectiveWork,
    GemmWork,
    MemoryWork,
    MoeWork,
    RecurrentWork,
)
from servesim.hardware.calibrated import CalibratedCost
from servesim.hardware.cost import Source
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.lending import as_lent
from servesim.hardware.load import DEVICES, load_device
from servesim.hardware.roofline import RooflineCost

MEMORY = {
    "launch": 2e-6,
    "row": 1e-9,
    "traffic": 1.0,
    "cache": 4.0,
    "held": 0.5,
    "memory": 0.8,
}
MOE = dict.fromkeys(("launch", "pair", "memory", "compute", "feed", "tile", "sharpness"), 1.0)
DEVICE = Device(
    name="toy",
    kind="gpu",
    peak_flops={"bf16": 100e12},
    memory=MemoryTier("HBM", 1e9, 1e12),
    cache=MemoryTier("L2", 1e7, 4e12),
    cores=10,
)


def model(**families: object) -> CalibratedCost:
    made = CalibratedCost.from_coefficients(DEVICE, families)
    assert isinstance(made, CalibratedCost)
    return made


def norm(rows: int, each: float = 1000.0) -> MemoryWork:
    return MemoryWork("norm", rows, rows * each / 2, rows * each / 2)


def test_a_fitted_kernel_is_calibrated_inside_its_range_and_extrapolated_beyond() -> None:
    costs = model(memory={"norm": {**MEMORY, "range": {"rows": [1, 1000]}}})
    inside, outside = costs.cost(norm(1000)), costs.cost(norm(5000))
    assert (inside.source, outside.source) == (Source.CALIBRATED, Source.EXTRAPOLATED)
    # 2 µs + 1000 rows of 1 ns over 10 cores + 1 MB at 4 TB/s
    assert inside.seconds == pytest.approx(2e-6 + 1e-7 + 0.25e-6)
    # 5 MB still fit half of the cache
    assert outside.seconds == pytest.approx(2e-6 + 5e-7 + 1.25e-6)


def test_bytes_beyond_the_cache_move_at_memory_speed() -> None:
    costs = model(memory={"norm": {**MEMORY, "row": 1e-30}})
    # 5 MB through the cache, 15 MB at 0.8 TB/s
    assert costs.cost(norm(20_000)).seconds == pytest.approx(2e-6 + 1.25e-6 + 15e6 / 0.8e12)


@pytest.mark.parametrize("name", ["tpu_v6e", "tpu_v5e", "h100_sxm", "rtx_3090"])
@pytest.mark.parametrize("kernel", ["norm", "rotary", "embedding", "sampler", "activation"])
def test_what_exceeds_the_cache_moves_no_faster_than_memory(name: str, kernel: str) -> None:
    device = load_device(name)
    work = MemoryWork(kernel, 120_000, 4e9, 4e9, 1e9)
    least = (8e9 - device.cache_bytes) / device.memory.bandwidth
    assert least <= device.cost_model.cost(work).seconds < 3 * least


def test_what_fits_the_cache_may_move_faster_than_memory() -> None:
    work = MemoryWork("norm", 2048, 33.5e6, 33.5e6, 5e7)  # measured on it, fused by XLA
    device = load_device("tpu_v6e")
    assert device.cost_model.cost(work).seconds < 67e6 / device.memory.bandwidth


def test_another_kernel_of_the_family_is_analytical() -> None:
    costs = model(memory={"norm": MEMORY})
    assert costs.cost(MemoryWork("router", 1, 1.0, 1.0)).source is Source.ANALYTICAL


def test_families_without_coefficients_fall_back_to_the_roofline() -> None:
    cost = model(memory={"norm": MEMORY}).cost(GemmWork(1, 1024, 1024))
    assert cost.source is Source.ANALYTICAL
    assert cost.seconds > 2.0 * 1024 * 1024 / 1e12


@pytest.mark.parametrize(("recurrence", "stands_in"), [("ssd", True), ("selective_scan", False)])
def test_recurrences_stand_in_for_those_of_their_kind(recurrence: str, stands_in: bool) -> None:
    device = load_device("h200_sxm")
    work = RecurrentWork(recurrence, 0, 0, 16, 48, 128, 128, 737280.0, 41024.0, 327680.0)
    found = device.cost_model.cost(work)
    assert found.source is Source.ANALYTICAL
    assert (found != RooflineCost(device).cost(work)) == stands_in


def test_work_of_nothing_takes_no_time() -> None:
    costs = load_device("rtx_pro_6000").cost_model
    assert costs.cost(GemmWork(0, 1024, 1024)).seconds == 0.0
    assert costs.cost(AttentionWork((), 0, 0, 0, 8, 8, 128, 128)).seconds == 0.0


def test_collectives_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="collective"):
        model(memory={"norm": MEMORY}).cost(CollectiveWork("all_reduce", 1.0, 2))


def test_weights_of_four_bits_in_16_bit_arithmetic_stream_their_own_bytes() -> None:
    device = load_device("h100_sxm")
    for m in (1, 64, 4096):
        whole, packed = GemmWork(m, 8192, 8192), GemmWork(m, 8192, 8192, "bf16", "int4")
        known, found = device.cost_model.cost(whole), device.cost_model.cost(packed)
        assert (known.source, found.source) == (Source.CALIBRATED, Source.ANALYTICAL)
        least = max(packed.weight_bytes / 3.35e12, packed.flops / 989.5e12)
        assert least < found.seconds <= known.seconds
        if m == 1:
            saved = (whole.weight_bytes - packed.weight_bytes) / 3.35e12
            assert known.seconds - found.seconds == pytest.approx(saved, rel=0.3)


def test_formats_the_device_lacks_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="fp8"):
        load_device("a100_sxm").cost_model.cost(GemmWork(1, 1024, 1024, "fp8", "fp8"))


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ({"memory": {"norm": {**MEMORY, "lunch": 1.0}}}, UnknownNameError, "did you mean 'launch'"),
        ({"memory": {"norm": {"launch": 1.0}}}, InputError, "row is missing"),
        ({"memory": {"norm": {**MEMORY, "launch": "1"}}}, InputError, "launch must be a number"),
        ({"memory": {"norm": {**MEMORY, "launch": True}}}, InputError, "not True"),
        ({"moe": {"bf16": {"tiling": 5}}}, InputError, "tiling must be a name, not 5"),
        ({"moe": {"bf16": {"by_tokens": [1, "a"]}}}, InputError, "must be a list of numbers"),
        ({"moe": {"bf16": {**MOE, "by_tokens": [1]}}}, InputError, "toy: moe.bf16: by_tokens must"),
        (
            {"moe": {"bf16": {**MOE, "tiling": "x"}}},
            UnknownNameError,
            "unknown tiling of .*moe.bf16: 'x'",
        ),
        ({"borrow": ["h100_sxm"]}, InputError, "borrow takes names of devices"),
        ({"gem": {}}, UnknownNameError, "did you mean 'gemm'"),
    ],
)
def test_wrong_coefficient_tables_are_named(table: dict, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        CalibratedCost.from_coefficients(DEVICE, table)


def test_who_borrows_from_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    sheet = (DEVICES / "l4.toml").read_text(encoding="utf-8")
    path.write_text(sheet.replace("borrow = ", f'borrow = "{path}"  # '), encoding="utf-8")
    with pytest.raises(InputError, match="leads back to itself"):
        load_device(str(path))


def test_devices_of_one_chip_lend_each_other_what_one_of_them_was_measured_for() -> None:
    h100, h200 = (load_device(name).cost_model for name in ("h100_sxm", "h200_sxm"))
    assert isinstance(h100, CalibratedCost)
    assert isinstance(h200, CalibratedCost)
    own, lent = h200.entries["moe"]["mxfp4"], h100.entries["moe"]["mxfp4"]
    assert own.source is Source.CALIBRATED
    assert lent.source is Source.ANALYTICAL
    assert lent.form == own.form
    own, lent = h100.entries["prefill"]["bf16_128"], h200.entries["prefill"]["bf16_128"]
    assert own.source is Source.CALIBRATED
    assert lent.form == own.form


def test_borrowed_coefficients_are_relative_to_the_borrowers_peaks() -> None:
    lender = load_device("rtx_pro_6000")
    half = Device(
        name="half",
        kind="gpu",
        peak_flops={"bf16": lender.peak_flops["bf16"] / 2},
        memory=MemoryTier("GDDR", 1e11, lender.memory.bandwidth / 2),
        cache=lender.cache,
        cores=lender.cores,
    )
    costs = CalibratedCost.from_coefficients(half, {"borrow": "rtx_pro_6000"})
    work = GemmWork(1, 65536, 8192)
    mine, theirs = costs.cost(work), lender.cost_model.cost(work)
    assert mine.source is Source.ANALYTICAL
    assert mine.seconds == pytest.approx(2 * theirs.seconds, rel=0.02)


@pytest.mark.parametrize("kind", ["tpu", "npu"])
def test_to_another_kind_of_device_the_lenders_cores_are_lent_too(kind: str) -> None:
    lender = load_device("h100_sxm")
    few = dataclasses.replace(lender, name="few", kind=kind, cores=2, calibration={})
    costs = CalibratedCost.from_coefficients(few, {"borrow": "h100_sxm"})
    for work in (
        GemmWork(512, 6144, 4096),
        MoeWork(1000, 8000.0, 128.0, 128, 8, 2048, 768),
        AttentionWork(((1000, 0),), 0, 0, 0, 32, 32, 192, 128),
        AttentionWork((), 8, 8 * 4096, 4096, 32, 8, 64, 64),
    ):
        assert costs.cost(work).seconds == lender.cost_model.cost(work).seconds


def test_where_cores_are_not_given_weights_are_unpacked_at_the_lenders_share_of_peak() -> None:
    lender = load_device("h100_sxm")
    assert isinstance(lender.cost_model, CalibratedCost)
    theirs = lender.cost_model.entries["moe"]["int4"]
    silent = dataclasses.replace(lender, cores=1)
    assert as_lent(theirs, lender, silent).form.compute == theirs.form.compute
    assert as_lent(theirs, silent, lender).form.compute == theirs.form.compute
    half = dataclasses.replace(lender, cores=lender.cores // 2)
    assert as_lent(theirs, lender, half).form.compute == pytest.approx(theirs.form.compute / 2)


def test_attention_of_another_width_is_nearer_than_another_device() -> None:
    own = load_device("h100_sxm").calibration["decode"]["bf16_128"]
    prefill = load_device("h100_sxm").calibration["prefill"]["bf16_128"]
    tables = {"decode": {"bf16_128": own}, "prefill": {"bf16_128": prefill}}
    alone, borrower = model(**tables), model(**tables, borrow="rtx_pro_6000")
    work = AttentionWork((), 8, 8 * 4096, 4096, 32, 8, 64, 64)
    assert borrower.cost(work) == alone.cost(work)
    assert borrower.cost(work).source is Source.ANALYTICAL
    latent = [key for key in borrower.entries["decode"] if key.endswith("latent")]
    assert latent  # a kind of attention it has none of is lent


@pytest.mark.parametrize("name", ["mi300x", "tpu_v5e"])
def test_beyond_what_the_lender_was_measured_on_borrowed_costs_are_extrapolated(name: str) -> None:
    costs = load_device(name).cost_model
    assert costs.cost(GemmWork(512, 6144, 4096)).source is Source.ANALYTICAL
    assert costs.cost(GemmWork(200_000, 6144, 4096)).source is Source.EXTRAPOLATED
    long = AttentionWork(((2048, 1_000_000),), 0, 0, 0, 32, 8, 128, 128)
    assert costs.cost(long).source is Source.EXTRAPOLATED


def test_families_may_come_from_different_devices() -> None:
    costs = model(borrow={"gemm": "rtx_a6000", "other": "a100_sxm"})
    for lender, family in (("rtx_a6000", "gemm"), ("a100_sxm", "moe")):
        theirs = load_device(lender).cost_model
        assert isinstance(theirs, CalibratedCost)
        form = theirs.entries[family]["bf16"].form
        lent = dataclasses.replace(form, tuned_for="") if family == "moe" else form
        assert costs.entries[family]["bf16"].form == lent
    assert theirs.entries["moe"]["bf16"].form.tuned_for  # settings tuned for an A100
    assert not model(borrow={"moe": "a100_sxm"}).entries["gemm"]


def test_borrowing_for_an_unknown_family_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gemm'"):
        model(borrow={"gem": "a100_sxm"})
