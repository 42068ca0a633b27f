"""The mean step of a saturated server, from the step model and the use of its operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from servesim.errors import ServesimError
from servesim.graph.batch import BatchShape
from servesim.runtime.config import EngineConfig
from servesim.runtime.energy.step_use import StepUse
from servesim.runtime.energy.use import compile_use
from servesim.scenario.build import Served, serve
from servesim.scenario.sections import HardwareSection, Instance, ModelSection
from servesim.validation.energy.configurations import Measured


@dataclass(frozen=True, slots=True)
class Steady:
    """The mean step of one rank.

    Attributes:
        measured: what was measured of it.
        batch: requests that decode, in all replicas.
        kernels_s: seconds of the model's kernels.
        memory_s, compute_s: what they would take at full bandwidth, and at peak arithmetic.
        logits: sampled from, in one replica.
        bandwidth: of the device's memory, bytes/s.
    """

    measured: Measured
    batch: float
    kernels_s: float
    memory_s: float
    compute_s: float
    logits: float
    bandwidth: float


def steady_steps(rows: Sequence[Measured]) -> tuple[list[Steady], dict[str, str]]:
    """The mean step of every configuration that can be simulated; and why others cannot."""
    found, skipped = [], dict[str, str]()
    for row in rows:
        try:
            found.append(_steady(row))
        except ServesimError as error:
            skipped[f"{row.model}, {row.task}"] = str(error)
    return found, skipped


def _steady(row: Measured) -> Steady:
    """Prefills come as often as requests end; half of an answer is context on average."""
    model, scheme = row.served_as
    served, use = _served(model, scheme, row.gpu, row.tensor_parallel)
    context = row.prompt_tokens + row.output_tokens / 2
    room = served.memory.kv_cache_tokens / context
    batch = max(1.0, min(row.max_num_seqs / row.replicas, room))
    decodes = round(batch)
    contexts = np.full(decodes, int(context))
    decode = BatchShape((), decodes, decodes * int(context), int(context), contexts)
    mixed = BatchShape(
        ((row.prompt_tokens, 0),), decodes, decodes * int(context), int(context), contexts
    )
    step = served.step_model
    alone, joined = _of(step.seconds(decode), use, decode), _of(step.seconds(mixed), use, mixed)
    mean = alone + (joined - alone) * batch / row.output_tokens
    return Steady(
        measured=row,
        batch=batch * row.replicas,
        kernels_s=float(mean[0]),
        memory_s=float(mean[1]),
        compute_s=float(mean[2]),
        logits=batch * served.graph.vocab_size,
        bandwidth=served.device.memory.bandwidth,
    )


def _of(seconds: float, use: StepUse, batch: BatchShape) -> npt.NDArray[np.float64]:
    return np.array([seconds, *use.of(batch)])


@cache
def _served(model: str, scheme: str | None, gpu: str, gpus: int) -> tuple[Served, StepUse]:
    """Experts are split like all else: spreading whole ones over GPUs moves as many bytes."""
    instance = Instance(
        model=ModelSection(model, quantization=scheme),
        hardware=HardwareSection(gpu),
        engine=EngineConfig(tensor_parallel_size=gpus, max_model_len=16384),
    )
    served = serve(instance)
    return served, StepUse(compile_use(served.placement))
