"""How long recorded steps took, and how long the step model says they take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from servesim.graph.batch import BatchShape
from servesim.scenario.build import Served
from servesim.validation.live.recorded import LiveRun
from servesim.validation.live.served import Times, batch_of, spans

#: What a step may consist of.
KINDS = ("decode", "prefill", "mixed")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """All steps of some runs, a row each, in seconds.

    Attributes:
        kinds: of the steps, as indices of ``KINDS``.
        sequences: in the step.
        measured: from the step's start to the next one's, where nothing paused in between.
        model: of that, what the worker took to run the model and to sample.
        operators: what the step model says the operators take.
        host: what the host is said to take beside them.
    """

    kinds: Times
    sequences: Times
    measured: Times
    model: Times
    operators: Times
    host: Times

    @property
    def predicted(self) -> Times:
        """Operators and host together."""
        return self.operators + self.host

    @classmethod
    def joined(cls, parts: Iterable[StepTimes]) -> StepTimes:
        """The steps of several runs."""
        several = list(parts)
        names = cls.__slots__
        return cls(*(np.concatenate([getattr(part, name) for part in several]) for name in names))


@dataclass(frozen=True, slots=True)
class StepErrors:
    """Errors of the predicted length of some steps.

    Attributes:
        median: of the absolute relative errors.
        bias: of the sum of all steps, relative.
        model_bias: the operators' sum against the worker's, relative.
        host_share: of the measured time, what was outside the worker.
    """

    steps: int
    median: float
    bias: float
    model_bias: float
    host_share: float


def step_times(run: LiveRun, served: Served) -> StepTimes:
    """Every step of ``run``, measured and predicted.

    Raises:
        ServesimError: the step model cannot cost a batch.
    """
    engine, model = served.engines[0], served.step_model
    batches = [batch_of(step, run) for step in run.steps]
    operators = np.array([model.seconds(batch) for batch in batches])
    begin, end = spans(run)
    return StepTimes(
        np.array([_kind(batch) for batch in batches], dtype=np.float64),
        np.array([batch.sequences for batch in batches], dtype=np.float64),
        end - begin,
        np.array([step.model_s for step in run.steps]),
        operators,
        np.array(
            [engine.host_seconds(b.sequences, s) for b, s in zip(batches, operators, strict=True)]
        ),
    )


def step_errors(times: StepTimes) -> dict[str, StepErrors]:
    """Errors by kind of step, for the kinds that there are, and of ``all``."""
    masks = {name: times.kinds == i for i, name in enumerate(KINDS)}
    masks["all"] = np.ones(len(times.kinds), dtype=bool)
    return {name: _errors(times, mask) for name, mask in masks.items() if mask.any()}


def _kind(batch: BatchShape) -> int:
    if not batch.prefills:
        return 0
    return 2 if batch.decodes else 1


def _errors(times: StepTimes, mask: Times) -> StepErrors:
    measured, predicted = times.measured[mask], times.predicted[mask]
    return StepErrors(
        len(measured),
        float(np.median(np.abs(predicted / measured - 1))),
        float(predicted.sum() / measured.sum() - 1),
        float(times.operators[mask].sum() / times.model[mask].sum() - 1),
        float(1 - times.model[mask].sum() / measured.sum()),
    )
