"""Steps within a power limit: the clock falls until a step stays below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple

from servesim.graph.batch import BatchShape
from servesim.hardware.placement import Placement
from servesim.hardware.power.accelerator import AcceleratorPower
from servesim.hardware.power.clock import LOWEST_CLOCK, ClockedCost, power_at_clock
from servesim.runtime.energy.step_use import StepUse
from servesim.runtime.energy.use import compile_use
from servesim.runtime.scheduled_step import ScheduledStepModel
from servesim.runtime.step_model import CompiledStepModel, OpCost

#: Clocks tried, as shares of the highest; between two of them time is interpolated by power.
_CLOCKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, LOWEST_CLOCK)


class Slowed(NamedTuple):
    """A step between two clocks: ``share`` of the way from ``faster`` (None: full) to ``slower``.

    ``at_faster`` and ``at_slower``: its seconds at them.
    """

    faster: CompiledStepModel | None
    slower: CompiledStepModel
    at_faster: float
    at_slower: float
    share: float


@dataclass
class CappedStepModel(CompiledStepModel):
    """Seconds of a step on devices that slow down rather than draw more than their limit.

    Costs are those of single kernels, measured one at a time at full clock; a step of them back
    to back can ask for more power than the device may draw, whether a cap was set or not. A
    step's mean power decides: power management is slower than a kernel and faster than a second.
    Work bound by memory keeps its time at a lower clock, so a cap costs a decode little.

    Attributes:
        power: of one device, with its own limit or the lower one it was set to.
    """

    power: AcceleratorPower = field(kw_only=True)
    _use: StepUse = field(init=False, repr=False)
    _decode_joules: dict[int, float] = field(init=False, repr=False, default_factory=dict)

    @classmethod
    def under(
        cls, placement: Placement, power: AcceleratorPower, *, capture_sizes: Sequence[int] = ()
    ) -> CappedStepModel:
        """Compile ``placement`` for devices that draw ``power``."""
        return cls(placement, tuple(sorted(capture_sizes)), power=power)

    def __post_init__(self) -> None:
        super().__post_init__()
        own = (one for one in compile_use(self.placement) if one.device == self.placement.default)
        self._use = StepUse(tuple(own))
        self._context_joules = self.power.work_joules(*self._use.per_context())

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        return self._capped(batch, super().seconds(batch))

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        seconds = super().decode_seconds(decodes, context, context_max)
        if self._surely_within(decodes, context, seconds):
            return seconds
        return self._capped(BatchShape((), decodes, context, context_max), seconds)

    def _surely_within(self, decodes: int, context: int, seconds: float) -> bool:
        """Whether decodes stay below the limit even if no window clips their contexts."""
        power = self.power
        fixed = self._decode_joules.get(decodes)
        if fixed is None:
            fixed = power.work_joules(*self._use.of_decodes(decodes))
            self._decode_joules[decodes] = fixed
        joules = fixed + self._context_joules * context
        return joules <= (power.limit_watts - power.active_watts) * seconds

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step of ``batch``, at the clock that keeps the limit."""
        full = self._uncapped(self.placement)
        slowed = self._slowed(batch, full.seconds(batch))
        if slowed is None:
            return full.cost_breakdown(batch)
        faster = (slowed.faster or full).cost_breakdown(batch)
        slower = slowed.slower.cost_breakdown(batch)
        return tuple(_between(faster, slower, slowed.share))

    def _capped(self, batch: BatchShape, seconds: float) -> float:
        """Seconds within the limit of a step that takes ``seconds`` at full clock."""
        slowed = self._slowed(batch, seconds)
        if slowed is None:
            return seconds
        return slowed.at_faster + slowed.share * (slowed.at_slower - slowed.at_faster)

    def _slowed(self, batch: BatchShape, seconds: float) -> Slowed | None:
        """The highest clock that keeps the limit; between two, seconds are linear in power.

        None where that is full clock, at which the step takes ``seconds``.
        """
        if seconds <= 0.0:
            return None
        limit, use = self.power.limit_watts, self._use.of(batch)
        watts = _watts(self.power, use, seconds)
        if watts <= limit:
            return None
        faster = None
        for power, model in self._levels:
            longer = _seconds(model, batch)
            drawn = _watts(power, use, longer)
            if drawn <= limit:
                return Slowed(faster, model, seconds, longer, (watts - limit) / (watts - drawn))
            seconds, watts, faster = longer, drawn, model
        return Slowed(faster, model, seconds, seconds, 1.0)

    @cached_property
    def _levels(self) -> tuple[tuple[AcceleratorPower, CompiledStepModel], ...]:
        """Power and step model at each lower clock."""
        return tuple(
            (
                power_at_clock(self.power, share),
                self._uncapped(_clocked(self.placement, share)),
            )
            for share in _CLOCKS[1:]
        )

    def _uncapped(self, placement: Placement) -> CompiledStepModel:
        """This model of ``placement``, whatever it draws."""
        return CompiledStepModel(placement, self.capture_sizes)


@dataclass
class CappedScheduledStepModel(CappedStepModel, ScheduledStepModel):
    """Operators on several devices, of which the default one keeps a power limit.

    Its power is the mean over the step, the time in which it waits for other devices included.
    """

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        return self.seconds(BatchShape((), decodes, context, context_max))

    def _uncapped(self, placement: Placement) -> CompiledStepModel:
        parts, ranks = self.sub_batches, self.prefill_ranks
        return ScheduledStepModel(placement, self.capture_sizes, parts, ranks, self.reads)


def _between(faster: Sequence[OpCost], slower: Sequence[OpCost], share: float) -> Iterator[OpCost]:
    """Rows of ``faster``, their seconds a ``share`` of the way to those of ``slower``.

    What overlaps at one of them alone, the last row, counts as nothing at the other.
    """
    for one, other in zip_longest(faster, slower):
        row = one or replace(other, seconds=0.0)
        until = other.seconds if other else 0.0
        yield replace(row, seconds=row.seconds + share * (until - row.seconds))


def _clocked(placement: Placement, share: float) -> Placement:
    """``placement`` with its default device at a share of its highest clock."""
    name = placement.default
    costs = ClockedCost(placement.cost_model(name), placement.devices[name], share)
    return replace(placement, costs={**placement.costs, name: costs})


def _seconds(model: CompiledStepModel, batch: BatchShape) -> float:
    sums = batch.decodes, batch.decode_context, batch.decode_context_max
    plain = batch.contexts is None and batch == BatchShape((), *sums)
    return model.decode_seconds(*sums) if plain else model.seconds(batch)


def _watts(power: AcceleratorPower, use: tuple[float, float], seconds: float) -> float:
    """What a step of this use asks for."""
    return power.active_watts + power.work_joules(*use) / seconds
