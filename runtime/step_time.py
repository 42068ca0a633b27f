"""How long an engine's step takes: on the device, before it, and on the host."""

from __future__ import annotations

import math

from servesim.errors import ServesimError
from servesim.runtime.encoder import images_begun
from servesim.runtime.instance import Instance
from servesim.runtime.plan import Plan


def step_seconds(instance: Instance, plan: Plan) -> float:
    """Seconds of the step that ``plan`` decided, with what comes before it and beside it.

    Raises:
        ServesimError: the step model gave no time.
    """
    model = instance.step_model
    if plan.plain:
        seconds = model.decode_seconds(plan.decodes, plan.context, plan.context_max)
    else:
        seconds = model.seconds(plan.shape())
    if not 0 <= seconds < math.inf:
        raise ServesimError(f"the step model gave {seconds} s for {plan.shape()}")
    host_s = instance.host_seconds(plan.sequences, seconds)
    return before_s(instance, plan) + seconds + host_s


def before_s(instance: Instance, plan: Plan) -> float:
    """Seconds before a step of ``plan`` can start: for adapters to come, and for images."""
    seconds = plan.loaded_adapters * instance.adapter_load_s
    encoder = instance.encoder
    if encoder is not None and (images := list(images_begun(plan.prefills))):
        seconds += encoder.seconds(images)
    return seconds
