"""Calibration: fitting, and holding out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from toy import DEVICE, MACHINE

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork
from servesim.hardware.calibrate.fit import Fit, fit, scaled
from servesim.hardware.calibrate.problems import built_form, problem
from servesim.hardware.calibrate.row import Row, held_out
from servesim.hardware.calibrate.run import calibrate
from servesim.hardware.calibrate.surfaces import with_surfaces
from servesim.hardware.forms.gemm import GemmForm
from servesim.hardware.forms.memory import MemoryForm
from servesim.hardware.forms.moe import MoeForm

TRUE = MemoryForm(launch=3e-6, row=1e-8, traffic=1.0, cache=4.0, held=0.5, memory=0.8)
SIZES = [2**i for i in range(14)]


def norm_rows(origin: str = "serving", factor: float = 1.0) -> list[Row]:
    works = [MemoryWork("norm", m, m * w, m * w) for m in SIZES for w in (2e3, 8e3, 3e4)]
    return [
        Row(w, factor * TRUE.seconds(w, MACHINE), "memory.norm", "", origin, regime=origin)
        for w in works
    ]


def test_a_fit_predicts_what_it_was_fitted_on() -> None:
    asked = problem("memory.norm", lambda _: MACHINE)
    found = fit(asked, norm_rows())
    for row in norm_rows():
        assert asked.seconds(found.coefficients, row) == pytest.approx(row.seconds, rel=0.05)


def test_a_slower_table_is_told_from_the_serving_one() -> None:
    rows = norm_rows() + norm_rows("old software", factor=1.1)
    found = fit(problem("memory.norm", lambda _: MACHINE), rows)
    factor, offset = found.origins["old software"]
    assert factor == pytest.approx(1.1, rel=0.02)
    assert offset == pytest.approx(0.0, abs=0.1e-6)
    back = scaled(rows[-1:], found.origins)[0]
    assert back.seconds == pytest.approx(rows[len(rows) // 2 - 1].seconds, rel=0.02)


def test_a_table_that_leaves_out_a_part_of_every_launch_is_told_too() -> None:
    bare = [replace(r, seconds=r.seconds - 1e-6) for r in norm_rows("benchmark")]
    found = fit(problem("memory.norm", lambda _: MACHINE), norm_rows() + bare)
    assert found.origins["benchmark"].offset == pytest.approx(-1e-6, rel=0.1)
    assert scaled(bare[:1], found.origins)[0].seconds == pytest.approx(norm_rows()[0].seconds, 0.05)


def test_fits_are_repeatable() -> None:
    asked = problem("memory.norm", lambda _: MACHINE)
    assert fit(asked, norm_rows()) == fit(asked, norm_rows())


def test_whole_shapes_are_held_out_and_about_a_fifth_of_them() -> None:
    shapes = [f"{n}x{k}" for n in range(50) for k in range(50)]
    kept = sum(map(held_out, shapes)) / len(shapes)
    assert 0.17 < kept < 0.23
    assert not held_out("")


def expert_rows(factor: Callable[[MoeWork], float]) -> list[Row]:
    """Experts as a library with tiles of 64 rows runs them, times ``factor``."""
    form = MoeForm(2e-5, 1e-8, 0.8, 0.5, 20.0, 1e-8, 6.0, tiling="fixed_64")
    works = [
        MoeWork(2**t, 8.0 * 2**t, min(8.0 * 2**t, 64), 64, 8, hidden, width)
        for t in range(11)
        for hidden in range(1024, 8192, 1024)
        for width in range(512, 2048, 256)
    ]
    return [
        Row(w, factor(w) * form.seconds(w, MACHINE), "moe.bf16", f"{w.hidden}x{w.intermediate}")
        for w in works
    ]


def test_the_tiles_that_experts_ran_in_are_found() -> None:
    rows = expert_rows(lambda _: 1.0)
    asked = problem("moe.bf16", lambda _: MACHINE)
    found = fit(asked, rows)
    assert found.coefficients["tiling"] == "fixed_64"
    for row in rows:
        assert asked.seconds(found.coefficients, row) == pytest.approx(row.seconds, rel=0.02)


def test_surfaces_take_the_bias_out_of_what_a_form_leaves() -> None:
    rows = expert_rows(lambda work: work.tokens**-0.05)
    asked = problem("moe.bf16", lambda _: MACHINE)
    fitted = fit(asked, rows)
    found = with_surfaces(asked, fitted, rows)

    def errors(of: Fit) -> list[float]:
        return sorted(asked.seconds(of.coefficients, row) / row.seconds - 1 for row in rows)

    assert errors(found)[len(rows) // 2] == pytest.approx(0.0, abs=0.002)
    assert sum(map(abs, errors(found))) < 0.5 * sum(map(abs, errors(fitted)))
    assert isinstance(built_form("moe.bf16", found.coefficients), MoeForm)


def test_kernels_faster_than_the_device_are_not_believed() -> None:
    work = AttentionWork(((4096, 0),), 0, 0, 0, 32, 8, 128, 128)
    impossible = work.flops / 1e15
    rows = [Row(work, impossible, "prefill.bf16_128", f"s{i}") for i in range(100)]
    with pytest.raises(InputError, match="faster than the device's peaks"):
        calibrate(DEVICE, rows)


def test_excluded_models_are_what_errors_are_reported_on() -> None:
    rows = [replace(r, model="a") for r in norm_rows()]
    rows += [replace(r, model="b", seconds=r.seconds * 1.2) for r in norm_rows()]
    (result,) = calibrate(DEVICE, rows, exclude_models={"b"})
    assert result.total is not None
    assert result.total.kernels == len(norm_rows())
    assert result.total.bias == pytest.approx(1 / 1.2 - 1, abs=0.02)


def test_benchmarks_of_single_products_are_brought_to_the_scale_of_serving() -> None:
    form = GemmForm(2e-6, 0.8, 0.8, 1e-7, 0.5, 1e-6, 4.0)
    works = [GemmWork(m, n, 4096) for m in (1, 16, 64, 256, 1024) for n in range(1024, 12289, 1024)]
    rows = [
        Row(w, form.seconds(w, MACHINE), "gemm.bf16", f"{w.n}", "benchmark", regime="all")
        for w in works
    ]
    (result,) = calibrate(DEVICE, rows)
    (scale,) = result.fitted.origins.values()
    assert scale.factor == 1.0
    assert scale.offset < 0
    predict = problem("gemm.bf16", lambda _: MACHINE).seconds
    found = predict(result.fitted.coefficients, rows[0])
    assert found == pytest.approx(rows[0].seconds - scale.offset, rel=0.1)
