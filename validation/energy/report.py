"""Errors of the energy predicted for configurations: held out, and with what is shipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from servesim.errors import InputError
from servesim.hardware.load import load_device
from servesim.hardware.power.accelerator import AcceleratorPower, accelerator_power
from servesim.validation.energy.configurations import Measured
from servesim.validation.energy.fit import (
    FITTED_TIME,
    EngineTime,
    Prediction,
    fit_power,
    fit_time,
    predict,
)
from servesim.validation.energy.steady import Steady, steady_steps

#: Models are dealt into so many groups by name; each is fitted on once.
_GROUPS = 3


@dataclass(frozen=True, slots=True)
class Errors:
    """Medians over configurations of the absolute relative error.

    Attributes:
        joules_per_token: predicted altogether.
        watts: if a step took the measured time: the power model alone.
        step: the time of a step.
        within: share of the configurations whose J/token is off by at most 15 %.
    """

    count: int
    joules_per_token: float
    watts: float
    step: float
    within: float


@dataclass(frozen=True)
class EnergyValidation:
    """What came out.

    Attributes:
        held_out: fitted on each third of the models and tested on the others, all tests together.
        splits: the same by third.
        shipped: with the coefficients that servesim has, nothing fitted here.
        by_task: of ``held_out``.
        time, power: fitted on all configurations.
        skipped: models that cannot be simulated, and why.
    """

    configurations: int
    held_out: Errors
    splits: tuple[Errors, ...]
    shipped: Errors
    by_task: Mapping[str, Errors]
    time: EngineTime
    power: AcceleratorPower
    skipped: Mapping[str, str]


def validate_energy(rows: Sequence[Measured]) -> dict[str, EnergyValidation]:
    """Predict every configuration, by kind of GPU.

    Raises:
        InputError: too few of the models can be simulated.
    """
    gpus = sorted({row.gpu for row in rows})
    return {gpu: _validate(gpu, [row for row in rows if row.gpu == gpu]) for gpu in gpus}


def _validate(gpu: str, rows: Sequence[Measured]) -> EnergyValidation:
    power = accelerator_power(load_device(gpu))
    steps, skipped = steady_steps(rows)
    models = sorted({one.measured.model for one in steps})
    if len(models) < _GROUPS:
        raise InputError(f"{gpu}: at least {_GROUPS} models that can be simulated are needed")
    tests = [_held_out(steps, models[group::_GROUPS], power) for group in range(_GROUPS)]
    together = [pair for test in tests for pair in test]
    time = fit_time(steps)
    tasks = sorted({one.measured.task for one in steps})
    return EnergyValidation(
        configurations=len(rows),
        held_out=_errors(together),
        splits=tuple(_errors(test) for test in tests),
        shipped=_errors(zip(steps, predict(steps, FITTED_TIME, power), strict=True)),
        by_task={t: _errors(p for p in together if p[0].measured.task == t) for t in tasks},
        time=time,
        power=fit_power(steps, time, power),
        skipped=skipped,
    )


def _held_out(
    steps: Sequence[Steady], fitted_on: Sequence[str], like: AcceleratorPower
) -> list[tuple[Steady, Prediction]]:
    training = [one for one in steps if one.measured.model in fitted_on]
    others = [one for one in steps if one.measured.model not in fitted_on]
    time = fit_time(training)
    predictions = predict(others, time, fit_power(training, time, like))
    return list(zip(others, predictions, strict=True))


def _errors(pairs: Iterable[tuple[Steady, Prediction]]) -> Errors:
    found = np.array(
        [
            (
                predicted.joules_per_token / one.measured.joules_per_token - 1.0,
                predicted.watts_at_measured / one.measured.watts - 1.0,
                predicted.step_s / one.batch * one.measured.tokens_per_s - 1.0,
            )
            for one, predicted in pairs
        ]
    )
    joules, watts, step = np.median(np.abs(found), axis=0).tolist()
    within = float(np.mean(np.abs(found[:, 0]) <= 0.15))
    return Errors(len(found), joules, watts, step, within)
