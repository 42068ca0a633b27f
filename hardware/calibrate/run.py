"""Calibrating a device: rows in, coefficients and held-out errors out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import AttentionWork
from servesim.hardware.calibrate import experts
from servesim.hardware.calibrate.errors import ErrorLine, error_line, error_lines, note
from servesim.hardware.calibrate.fit import Fit, Problem, Scale, fit, scaled
from servesim.hardware.calibrate.problems import built_form, problem
from servesim.hardware.calibrate.row import SERVING, Row
from servesim.hardware.calibrate.split import Split, by_form, is_joint, serving, split
from servesim.hardware.calibrate.surfaces import describes, with_common_surfaces, with_surfaces
from servesim.hardware.calibrate.together import Part, agreed, fit_together
from servesim.hardware.calibrate.tuned_experts import TUNED
from servesim.hardware.calibrated import machine_of
from servesim.hardware.calibration_entry import LIKE
from servesim.hardware.device import Device
from servesim.hardware.forms.extent import extent

#: Scale of benchmarks that launch one kernel over and over, for a device without any measurement of
#: kernels in a model's order: what RTX PRO 6000, which has both, tells of dense products: -2.4 to
#: -3.5 µs, by how the form is fitted; the smaller is kept. Its attention shows no such offset. The
#: part by which a factor differs from one may be its clocks and is not taken over.
_BENCHMARK_SCALES = {"gemm": Scale(1.0, -2.4e-6)}
#: Coefficients of decodes that only batches of unequal contexts tell: value and source where a
#: device has none.
_UNEQUAL = {"skew": (0.25425, "decode.bf16_128 of rtx_pro_6000")}
_SOMETHING_ELSE = "its tables measured something else than the form describes"


@dataclass(frozen=True)
class FormResult:
    """One form of one device.

    Attributes:
        form: family and key, e.g. ``gemm.bf16``.
        fitted: the fit on everything that was not held out.
        ranges: sizes of the rows it was fitted on.
        held_out: errors on shapes, or on the model, kept out of the fit.
        total: the same in one line, regimes of serving alone.
        sources: tables it rests on.
        borrowed: coefficients that no row tells, with the form and device they come from.
        like: the form it shares coefficients with.
    """

    form: str
    fitted: Fit
    ranges: Mapping[str, tuple[float, float]]
    held_out: Sequence[ErrorLine]
    total: ErrorLine | None
    sources: Sequence[str]
    borrowed: Mapping[str, str] = field(default_factory=dict)
    like: FormResult | None = None


@dataclass(frozen=True)
class _Prepared:
    """A form before it is fitted, with its rows on the ``scales`` of serving that are known."""

    form: str
    asked: Problem
    parts: Split
    scales: Mapping[str, Scale]
    borrowed: Mapping[str, str] = field(default_factory=dict)


def calibrate(
    device: Device,
    rows: Sequence[Row],
    exclude_models: Collection[str] = (),
    joint: bool = False,
    only: Collection[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[FormResult]:
    """Every form that ``rows`` allow, fitted with whole shapes held out.

    Rows of ``exclude_models`` never enter a fit; they are then what errors are reported on.
    ``joint``: attention of mixed batches, and some decodes, run as blocks of the prefill kernel
    (FlashAttention 2). ``only``: prefixes of the forms to fit, with all that share coefficients
    with them; all without any.

    Raises:
        UnknownNameError: one of ``only`` starts no form of what was measured.
        InputError: no form can be fitted.
    """
    groups: dict[str, list[_Prepared]] = {}
    left: dict[str, str] = {}
    believed = by_form(device, rows, joint)
    for dtype in sorted({row.work.dtype for row in rows} - device.peak_flops.keys()):
        progress(f"kernels in {dtype}: left out, {device.name} does not compute in it")
    for prefix in only:
        if not any(form.startswith(prefix) for form in believed):
            raise UnknownNameError("form to fit", prefix, believed)
    problems = {form: _problem(device, form, joint, found) for form, found in believed.items()}
    starts = tuple(only) or ("",)
    chosen = {asked.group or form for form, asked in problems.items() if form.startswith(starts)}
    for form, asked in problems.items():
        if (group := asked.group or form) in chosen:
            prepared = _prepared(form, asked, believed[form], exclude_models)
            if isinstance(prepared, str):
                left[form] = prepared
                progress(f"{form}: left out, {prepared}")
            else:
                groups.setdefault(group, []).append(prepared)
    results = [result for group in groups.values() for result in _results(group, progress)]
    if not results:
        left |= {p.form: _SOMETHING_ELSE for group in groups.values() for p in group}
        reasons = "; ".join(f"{form}: {why}" for form, why in left.items())
        raise InputError(f"{device.name}: no form can be fitted: {reasons}")
    return sorted(results, key=lambda result: result.form)


def _problem(device: Device, form: str, joint: bool, rows: Sequence[Row]) -> Problem:
    asked = problem(form, lambda dtype: machine_of(device, dtype), is_joint(form, joint))
    named = sorted({row.tiling for row in rows})
    if len(named) == 1 and named[0]:
        asked = replace(asked, choices={**asked.choices, "tiling": named})
    return with_tuned(asked, TUNED.get(device.name, {}).get(form, ""))


def _prepared(
    form: str, asked: Problem, rows: Sequence[Row], exclude_models: Collection[str]
) -> _Prepared | str:
    """The form with its rows, or why it cannot be fitted to them."""
    if not rows:
        return "too many of its kernels are faster than the device's peaks"
    scales = _borrowed_scales(form, rows)
    parts = split(scaled(rows, scales), exclude_models)
    there, needed = len(parts.fitting), 2 * asked.size()
    if there < needed:
        others = f"{len(rows) - there} held out or outside sizes of serving"
        return f"a fit needs {needed} kernels and has {there}, not counting {others}"
    return _Prepared(form, asked, parts, scales)


def _results(group: Sequence[_Prepared], progress: Callable[[str], None]) -> list[FormResult]:
    """What ``group`` comes to: the first form in full, the others in what they differ."""
    alone = [(p, fitted) for p in _settled(group) if (fitted := _alone(p, progress))]
    fits = [fitted for _, fitted in alone]
    if len(alone) > 1:
        progress(f"together: {', '.join(p.form for p, _ in alone)}")
        fits = fit_together([Part(p.asked, p.parts.fitting, fitted) for p, fitted in alone])
    fits = _with_surfaces([p for p, _ in alone], fits)
    results: list[FormResult] = []
    for (prepared, _), fitted in zip(alone, fits, strict=True):
        results.append(_result(prepared, fitted, results[0] if results else None))
    return results


def _settled(group: Sequence[_Prepared]) -> list[_Prepared]:
    """``group`` with coefficients that no row of it tells given, and its common choices made."""
    lent = {} if any(_unequal(row) for p in group for row in p.parts.fitting) else _UNEQUAL
    problems = [_without(p.asked, lent) for p in group]
    if len(group) > 1:
        problems = agreed(problems, [p.parts.fitting for p in group])
    borrowed = {name: form for name, (_, form) in lent.items() if name in problems[0].choices}
    return [replace(p, asked=a, borrowed=borrowed) for p, a in zip(group, problems, strict=True)]


def _alone(prepared: _Prepared, progress: Callable[[str], None]) -> Fit | None:
    """The form fitted to its own rows alone; None where they measured something else."""
    form, asked, fitting = prepared.form, prepared.asked, prepared.parts.fitting
    progress(f"{form}: {len(fitting)} kernels")
    fitted = fit(asked, fitting)
    if describes(asked, with_surfaces(asked, fitted, fitting), fitting):
        return fitted
    progress(f"{form}: left out, {_SOMETHING_ELSE}")
    return None


def _with_surfaces(group: Sequence[_Prepared], fits: Sequence[Fit]) -> list[Fit]:
    """``fits`` of ``group`` with their surfaces: the same for all where they are shared."""
    parts = [(p.asked, f, p.parts.fitting) for p, f in zip(group, fits, strict=True)]
    if parts and all(set(asked.surfaces) <= set(asked.shared) for asked, _, _ in parts):
        return with_common_surfaces(parts)
    return [with_surfaces(*part) for part in parts]


def _result(prepared: _Prepared, fitted: Fit, like: FormResult | None) -> FormResult:
    asked, parts = prepared.asked, prepared.parts
    tested = scaled(parts.tested, fitted.origins)

    def predict(row: Row) -> float:
        return asked.seconds(fitted.coefficients, row)

    judged = serving(tested)
    return FormResult(
        form=prepared.form,
        fitted=replace(fitted, origins={**prepared.scales, **fitted.origins}),
        ranges=_ranges(serving(parts.kept)),
        held_out=list(error_lines(tested, predict)),
        total=error_line(judged, predict, "all", "serving") if judged else None,
        sources=sorted({row.origin for row in parts.kept}),
        borrowed=prepared.borrowed,
        like=like,
    )


def with_tuned(asked: Problem, sizes: str) -> Problem:
    """``asked`` for a library that has tuned settings for experts of some ``sizes``."""
    if not sizes:
        return asked
    choices = {**asked.choices, "tuned_for": (sizes,)}
    return replace(asked, parameters={**asked.parameters, **experts.TUNED}, choices=choices)


def _unequal(row: Row) -> bool:
    """Whether the decodes of ``row`` differ in context."""
    work = row.work
    return isinstance(work, AttentionWork) and work.decode_keys < (
        work.decodes * work.decode_keys_max
    )


def _without(asked: Problem, lent: Mapping[str, tuple[float, str]]) -> Problem:
    """``asked`` with the coefficients of ``lent`` that it has given, not searched."""
    given = {name: (value,) for name, (value, _) in lent.items() if name in asked.parameters}
    left = {name: p for name, p in asked.parameters.items() if name not in given}
    return replace(asked, parameters=left, choices={**asked.choices, **given})


def _borrowed_scales(form: str, rows: Sequence[Row]) -> dict[str, Scale]:
    """Scale by origin where only benchmarks of single kernels are there."""
    scale = _BENCHMARK_SCALES.get(form.split(".", maxsplit=1)[0])
    origins = {row.origin for row in rows}
    if scale is None or SERVING in origins:
        return {}
    return dict.fromkeys(sorted(origins), scale)


def _ranges(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    ranges: dict[str, tuple[float, float]] = {}
    for row in rows:
        for name, value in extent(row.work).items():
            low, high = ranges.get(name, (value, value))
            ranges[name] = (min(low, value), max(high, value))
    return ranges


def as_table(result: FormResult, source: str) -> dict[str, Any]:
    """``result`` as it stands in a device file.

    Coefficients at their defaults are left out; of a form like another, those that are the same.
    """
    table: dict[str, Any] = {"source": source}
    if result.total is not None:
        table["held_out"] = note(result.total)
    table["range"] = {name: [low, high] for name, (low, high) in result.ranges.items()}
    if result.fitted.origins:
        table["origins"] = {o: list(scale) for o, scale in result.fitted.origins.items()}
    if result.borrowed:
        table["borrowed"] = dict(result.borrowed)
    form = built_form(result.form, result.fitted.coefficients)
    known = {f.name: f.default for f in fields(form)}
    if result.like is not None:
        table[LIKE] = result.like.form.partition(".")[2]
        known = asdict(built_form(result.like.form, result.like.fitted.coefficients))
    return table | {k: v for k, v in asdict(form).items() if v != known[k]}
