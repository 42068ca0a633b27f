"""Coefficients that forms of a device share: fitted once, written once, read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy import DEVICE, MACHINE

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import MemoryWork
from servesim.hardware.calibrate.fit import Parameter, Problem, fit
from servesim.hardware.calibrate.problems import problem
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.run import as_table, calibrate
from servesim.hardware.calibrate.together import Part, agreed, fit_together
from servesim.hardware.calibration_entry import completed
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.memory import MemoryForm

NORM = MemoryForm(launch=3e-6, row=1e-8, traffic=1.0, cache=4.0, held=0.5, memory=0.8)
ROPE = replace(NORM, traffic=2.0)
SHARED = ("launch", "memory")


def rows(kernel: str, true: MemoryForm) -> list[Row]:
    works = [
        MemoryWork(kernel, m, m * w, m * w)
        for m in (2**i for i in range(14))
        for w in (2e3, 8e3, 3e4)
    ]
    return [Row(w, true.seconds(w, MACHINE), f"memory.{kernel}", str(w.rows), "") for w in works]


MEASURED = {"memory.norm": rows("norm", NORM), "memory.rope": rows("rope", ROPE)}


def asked(form: str, shared: tuple[str, ...] = SHARED) -> Problem:
    return replace(problem(form, lambda _: MACHINE), group="all", shared=shared)


def test_shared_coefficients_are_the_same_and_the_others_each_forms_own() -> None:
    parts = [Part(asked(f), r, fit(asked(f), r)) for f, r in MEASURED.items()]
    norm, rope = fit_together(parts)
    for name in SHARED:
        assert norm.coefficients[name] == rope.coefficients[name]
    assert rope.coefficients["traffic"] > 1.5 * norm.coefficients["traffic"]
    for fitted, part in zip((norm, rope), parts, strict=True):
        for row in part.rows:
            predicted = part.problem.seconds(fitted.coefficients, row)
            assert predicted == pytest.approx(row.seconds, rel=0.05)


def test_choices_that_are_shared_cost_all_forms_least() -> None:
    choices = {"memory": (0.4, 0.8), "cache": (2.0, 4.0)}
    problems = [
        replace(
            problem(form, lambda _: MACHINE),
            parameters={"launch": Parameter(3e-6, 1e-6, 1e-5)},
            choices={"row": (1e-8,), "traffic": (t,), "held": (0.5,), **choices},
            group="all",
            shared=("memory", "traffic"),
        )
        for form, t in (("memory.norm", 1.0), ("memory.rope", 1.0))
    ]
    norm, other = agreed(problems, [rows("norm", NORM), rows("rope", NORM)])
    for left in (norm, other):
        assert left.choices["memory"] == (0.8,)
        assert left.choices["cache"] == (2.0, 4.0)


def test_nothing_shared_is_fitted_as_alone() -> None:
    parts = [Part(asked(f, ()), r, fit(asked(f, ()), r)) for f, r in MEASURED.items()]
    for part, fitted in zip(parts, fit_together(parts), strict=True):
        for row in part.rows[::5]:
            alone = part.problem.seconds(part.alone.coefficients, row)
            assert part.problem.seconds(fitted.coefficients, row) == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize("only", [(), ("memory.rope",)])
def test_a_group_is_fitted_whole_and_written_once(
    only: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servesim.hardware.calibrate.run.problem", lambda form, *_: asked(form))
    norm, rope = calibrate(DEVICE, [row for r in MEASURED.values() for row in r], only=only)
    tables = {"norm": as_table(norm, "here"), "rope": as_table(rope, "here")}
    assert tables["rope"]["like"] == "norm"
    assert not tables["rope"].keys() & set(SHARED)
    read = completed(tables, "rope", "toy: memory.rope")
    assert {name: read[name] for name in SHARED} == {n: tables["norm"][n] for n in SHARED}
    assert read["traffic"] == rope.fitted.coefficients["traffic"]


def test_an_entry_is_like_one_that_is_whole() -> None:
    tables = {"a": {"x": 1, "source": "A"}, "b": {"like": "a"}, "c": {"like": "b"}}
    assert completed(tables, "b", "toy: gemm.b") == {"x": 1}
    with pytest.raises(InputError, match="c is like b, which is like a: name that"):
        completed(tables, "c", "c")
    with pytest.raises(UnknownNameError, match=r"form that d is like: 'aa'.* 'a'"):
        completed(tables | {"d": {"like": "aa"}}, "d", "d")


def test_a_device_file_may_say_so(tmp_path: Path) -> None:
    from servesim.hardware.load import load_device

    sheet = """title = "toy"
kind = "gpu"
cores = 100
[peak_flops]
bf16 = 1e14
[memory]
name = "HBM"
capacity_bytes = 1e10
bandwidth = 1e12
[calibration.memory.norm]
launch = 3e-6
row = 1e-8
traffic = 1.0
cache = 4.0
held = 0.5
memory = 0.8
[calibration.memory.rope]
like = "norm"
traffic = 2.0
"""
    path = tmp_path / "toy.toml"
    path.write_text(sheet, encoding="utf-8")
    costs = load_device(str(path)).cost_model
    work = MemoryWork("rope", 4096, 4096 * 8e3, 4096 * 8e3)
    machine = Machine(1e14, 1e12, 0.0, 100)
    assert costs.cost(work).seconds == pytest.approx(ROPE.seconds(work, machine))
