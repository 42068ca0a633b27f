"""Steps under a power cap: the clock falls until the step stays within it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from servesim.graph.batch import BatchShape
from servesim.hardware.placement import Placement
from servesim.hardware.power.accelerator import AcceleratorPower
from servesim.hardware.power.clock import LOWEST_CLOCK, ClockedCost, power_at_clock
from servesim.runtime.energy.use import StepUse, compile_use
from servesim.runtime.step_model import CompiledStepModel

#: Clocks tried, as shares of the highest; between two of them time is interpolated by power.
_CLOCKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, LOWEST_CLOCK)


@dataclass
class CappedStepModel(CompiledStepModel):
    """Seconds of a step on devices that slow down rather than draw more than a cap.

    A step's mean power decides: power management is slower than a kernel and faster than a
    second. Work bound by memory keeps its time at a lower clock, so a cap costs a decode little.
    What costs say of the uncapped device holds at its own limit, which may slow it down already:
    a cap counts from there.

    Attributes:
        power: of one uncapped device.
        cap_watts: the cap.
    """

    power: AcceleratorPower | None = None
    cap_watts: float = math.inf
    _levels: tuple[tuple[AcceleratorPower, CompiledStepModel], ...] = field(init=False, repr=False)
    _use: StepUse = field(init=False, repr=False)

    @classmethod
    def under(
        cls,
        placement: Placement,
        power: AcceleratorPower,
        cap_watts: float,
        *,
        capture_sizes: Sequence[int] = (),
    ) -> CappedStepModel:
        """Compile ``placement`` at every clock that ``cap_watts`` may lead to."""
        return cls(placement, tuple(sorted(capture_sizes)), power, cap_watts)

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.power is not None
        self._use = StepUse(compile_use(self.placement))
        self._levels = tuple(
            (power_at_clock(self.power, share), self._at(share)) for share in _CLOCKS[1:]
        )

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        return self._capped(batch, super().seconds(batch))

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        full = super().decode_seconds(decodes, context, context_max)
        return self._capped(BatchShape((), decodes, context, context_max), full)

    def _capped(self, batch: BatchShape, seconds: float) -> float:
        assert self.power is not None
        if seconds <= 0.0:
            return seconds
        use = self._use.of(batch)
        watts = _watts(self.power, use, seconds)
        if watts <= self.cap_watts:
            return seconds
        capped, own = self._within(self.cap_watts, batch, use, seconds), self.power.limit_watts
        uncapped = self._within(own, batch, use, seconds) if watts > own else seconds
        return seconds * capped / uncapped

    def _within(
        self, limit: float, batch: BatchShape, use: tuple[float, float], seconds: float
    ) -> float:
        """Seconds at the highest clock at which the step draws no more than ``limit``; between
        two clocks, linear in power."""
        assert self.power is not None
        watts = _watts(self.power, use, seconds)
        for power, model in self._levels:
            longer = _seconds(model, batch)
            drawn = _watts(power, use, longer)
            if drawn <= limit:
                return seconds + (watts - limit) / (watts - drawn) * (longer - seconds)
            seconds, watts = longer, drawn
        return seconds

    def _at(self, share: float) -> CompiledStepModel:
        name = self.placement.default
        device = self.placement.devices[name]
        costs = ClockedCost(self.placement.cost_model(name), device, share)
        placement = replace(self.placement, costs={**self.placement.costs, name: costs})
        return CompiledStepModel.compile(placement, capture_sizes=self.capture_sizes)


def _seconds(model: CompiledStepModel, batch: BatchShape) -> float:
    if batch.prefills or batch.contexts is not None:
        return model.seconds(batch)
    return model.decode_seconds(batch.decodes, batch.decode_context, batch.decode_context_max)


def _watts(power: AcceleratorPower, use: tuple[float, float], seconds: float) -> float:
    """What a step of this use asks for."""
    return power.active_watts + power.work_joules(*use) / seconds
