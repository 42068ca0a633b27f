"""Few coefficients on a third of the models, and what they predict of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servesim.hardware.power.accelerator import AcceleratorPower
from servesim.validation.energy.steady import Steady

Values = npt.NDArray[np.float64]

#: Rounds of reweighting by which least squares becomes least absolute relative deviations.
_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class EngineTime:
    """What a step of the measured engine takes beside the model's kernels.

    Attributes:
        step_s: of the host, a step.
        logit_bytes: moved at full bandwidth for each logit: top-p sampling sorts them.
    """

    step_s: float
    logit_bytes: float


#: As fitted on all configurations on H100 (vLLM 0.11.1, ML.ENERGY v3).
FITTED_TIME = EngineTime(1.1e-3, 1150.0)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one configuration.

    Attributes:
        step_s: mean time of a step.
        watts: of all GPUs, at the predicted time.
        watts_at_measured: of all GPUs, if a step takes the measured time.
        joules_per_token: of an output token, all predicted.
    """

    step_s: float
    watts: float
    watts_at_measured: float
    joules_per_token: float


def predict(steps: Sequence[Steady], time: EngineTime, power: AcceleratorPower) -> list[Prediction]:
    """What the models say of each configuration."""
    found = []
    for one in steps:
        seconds, gpus = step_seconds(one, time), one.measured.gpus
        watts = gpus * _watts(one, time, power, seconds)
        at_measured = gpus * _watts(one, time, power, one.measured.step_s)
        found.append(Prediction(seconds, watts, at_measured, watts * seconds / one.batch))
    return found


def step_seconds(one: Steady, time: EngineTime) -> float:
    """Kernels of the model, sampling, host."""
    return one.kernels_s + _sampling_s(one, time) + time.step_s


def fit_time(steps: Sequence[Steady]) -> EngineTime:
    """From measured step times: least absolute relative deviations, never negative."""
    measured = np.array([one.measured.step_s for one in steps])
    kernels = np.array([one.kernels_s for one in steps])
    per_byte = np.array([one.logits / one.bandwidth for one in steps])
    columns = np.column_stack((np.ones(len(steps)), per_byte))
    step_s, logit_bytes = _fit(columns, measured - kernels, measured)
    return EngineTime(step_s, logit_bytes)


def fit_power(
    steps: Sequence[Steady], time: EngineTime, like: AcceleratorPower
) -> AcceleratorPower:
    """Active, memory and compute watts from measured power and step times."""
    measured = np.array([one.measured.watts / one.measured.gpus for one in steps])
    seconds = np.array([one.measured.step_s for one in steps])
    memory = np.array([one.memory_s + _sampling_s(one, time) for one in steps])
    compute = np.array([one.compute_s for one in steps])
    columns = np.column_stack((np.ones(len(steps)), memory / seconds, compute / seconds))
    active, at_bandwidth, at_peak = _fit(columns, measured, measured)
    return AcceleratorPower(
        like.idle_watts, like.standby_watts, like.standby_s,
        active, at_bandwidth, at_peak, like.limit_watts,
    )  # fmt: skip


def _sampling_s(one: Steady, time: EngineTime) -> float:
    return time.logit_bytes * one.logits / one.bandwidth


def _watts(one: Steady, time: EngineTime, power: AcceleratorPower, seconds: float) -> float:
    work = power.work_joules(one.memory_s + _sampling_s(one, time), one.compute_s)
    return min(power.active_watts + work / seconds, power.limit_watts)


def _fit(columns: Values, target: Values, scale: Values) -> list[float]:
    """Coefficients that are least absolute in ``(columns·c - target)/scale``; none negative."""
    relative, wanted = columns / scale[:, None], target / scale
    weight = np.ones(len(wanted))
    used = list(range(columns.shape[1]))
    found = np.zeros(columns.shape[1])
    for _ in range(_ROUNDS):
        root = np.sqrt(weight)
        found[:] = 0.0
        found[used] = np.linalg.lstsq(relative[:, used] * root[:, None], wanted * root, rcond=None)[
            0
        ]
        used = [i for i in used if found[i] > 0.0] or used
        weight = 1.0 / np.maximum(np.abs(relative @ found - wanted), 0.02)
    return [max(0.0, float(value)) for value in found]
