"""Steps under a power cap: the clock falls until the step stays within it."""

from __future__ import annotations

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
    """Seconds of a step on devices that slow down rather than draw more than their limit.

    A step's mean power decides: power management is slower than a kernel and faster than a
    second. Work bound by memory keeps its time at a lower clock, so a cap costs a decode little.

    Attributes:
        power: of one device, its cap included.
    """

    power: AcceleratorPower | None = None
    _levels: tuple[tuple[AcceleratorPower, CompiledStepModel], ...] = field(init=False, repr=False)
    _use: StepUse = field(init=False, repr=False)

    @classmethod
    def under(
        cls, placement: Placement, power: AcceleratorPower, *, capture_sizes: Sequence[int] = ()
    ) -> CappedStepModel:
        """Compile ``placement`` at every clock that ``power.limit_watts`` may lead to."""
        return cls(placement, tuple(sorted(capture_sizes)), power)

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.power is not None
        self._use = StepUse(compile_use(self.placement))
        self._levels = tuple(
            (power_at_clock(self.power, share), self._at(share)) for share in _CLOCKS[1:]
        )

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        return self._slowed(batch, super().seconds(batch))

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        full = super().decode_seconds(decodes, context, context_max)
        return self._slowed(BatchShape((), decodes, context, context_max), full)

    def _slowed(self, batch: BatchShape, seconds: float) -> float:
        power = self.power
        if power is None or seconds <= 0.0:
            return seconds
        memory, compute = self._use.of(batch)
        limit = power.limit_watts
        watts = power.active_watts + power.work_joules(memory, compute) / seconds
        for slower, model in self._levels:
            if watts <= limit:
                return seconds
            longer = _seconds(model, batch)
            drawn = slower.active_watts + slower.work_joules(memory, compute) / longer
            if drawn <= limit:
                part = (watts - limit) / (watts - drawn)
                return seconds + part * (longer - seconds)
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
