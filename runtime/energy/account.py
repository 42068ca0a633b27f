"""Energy of one engine's accelerators from its step records: busy, standing by, idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from servesim.graph.op import CONTEXT, GROUP, TOKENS
from servesim.hardware.power.accelerator import AcceleratorPower
from servesim.runtime.energy.columns import StepColumns, Values
from servesim.runtime.energy.use import COMPUTE, HOST_READS, LINK, MEMORY, OpUse
from servesim.runtime.steps import StepRecords

#: Share of the data sheet's peaks that attention reaches, where its time is not known otherwise.
_REACHED = 0.8

#: The family of steps without a token of their own: taken because other ranks take one.
DUMMY = "dummy steps"

#: What an accelerator can be doing.
STATES = ("active", "standby", "idle")


@dataclass(frozen=True)
class Powered:
    """The accelerators of one engine.

    Attributes:
        uses: of its placement's operators.
        powers: by device name of the placement.
        ranks: equal devices behind each name.
    """

    uses: tuple[OpUse, ...]
    powers: Mapping[str, AcceleratorPower]
    ranks: int = 1


@dataclass(frozen=True)
class EngineEnergy:
    """Joules of one engine's accelerators, from time 0 to ``until_s``.

    Attributes:
        states: by what they were doing (``STATES``).
        families: of the active part, by operator family.
        prefill_joules, decode_joules: the active part, split in every step as its prefills and
            its decodes would take time alone.
        prefill_share: of the time of the steps, split in the same way.
        busy_s: seconds in steps.
        link_bytes: sent between the accelerators, and between them and their hosts.
        host_bytes: of these, read from the hosts' memory.
        times, joules, busy: energy drawn and seconds spent in steps since time 0, piecewise linear.
    """

    states: Mapping[str, float]
    families: Mapping[str, float]
    prefill_joules: float
    decode_joules: float
    prefill_share: float
    busy_s: float
    link_bytes: float
    host_bytes: float
    times: Values
    joules: Values
    busy: Values

    @property
    def total(self) -> float:
        """Joules over the whole time."""
        return float(self.joules[-1])


def engine_energy(steps: StepRecords, powered: Powered, until_s: float) -> EngineEnergy:
    """What the engine that did ``steps`` drew until ``until_s``.

    The work of joined rows is taken at their mean batch.
    """
    rows, busy = StepColumns.of(steps), steps.busy_s()
    count = steps.column("steps")
    per_step = busy / np.maximum(count, 1.0)
    families: dict[str, float] = {}
    active, bubbles = np.zeros(len(busy)), np.zeros(len(busy))
    link = host = 0.0
    for name, power in powered.powers.items():
        uses = [one for one in powered.uses if one.device == name]
        own = _own_seconds(uses, rows, per_step, alone=len(powered.powers) == 1)
        drawn, shares = _active(uses, power, rows, own)
        active += drawn * count * powered.ranks
        bubbles += power.standby_watts * (per_step - own) * count * powered.ranks
        for family, share in shares.items():
            spent = float((drawn * share) @ count) * powered.ranks
            families[family] = families.get(family, 0.0) + spent
        sent = [(one.family, float(one.use(rows)[:, LINK] @ count)) for one in uses]
        link += sum(size for _, size in sent) * powered.ranks
        host += sum(size for family, size in sent if family == HOST_READS) * powered.ranks
    prefill = _prefill_share(powered.uses, rows)
    times, joules, waiting = _line(steps, active + bubbles, busy, powered, until_s)
    waiting["standby"] += float(bubbles.sum())
    return EngineEnergy(
        states={"active": float(active.sum()), **waiting},
        families=families,
        prefill_joules=float(active @ prefill),
        decode_joules=float(active @ (1.0 - prefill)),
        prefill_share=float(busy @ prefill / busy.sum()) if busy.sum() > 0 else 0.0,
        busy_s=float(busy.sum()),
        link_bytes=link,
        host_bytes=host,
        times=times,
        joules=joules,
        busy=np.repeat(np.concatenate(([0.0], np.cumsum(busy))), 3),
    )


def step_watts(power: AcceleratorPower, work_joules: Values, seconds: Values) -> Values:
    """Mean power of steps that take ``seconds``, one accelerator's."""
    safe = np.where(seconds > 0, seconds, 1.0)
    return np.minimum(power.active_watts + work_joules / safe, power.limit_watts)


def _own_seconds(
    uses: Sequence[OpUse], rows: StepColumns, seconds: Values, *, alone: bool
) -> Values:
    """Seconds of each step in which a device works, and not another one of its engine.

    With several (stages of a pipeline, a memory that computes) it is their kernels' time, that of
    contextual ones from what they use; a single device works all the time.
    """
    if alone:
        return seconds
    own = np.zeros(len(seconds))
    for one in uses:
        use = one.use(rows)
        contextual = (use[:, MEMORY] + use[:, COMPUTE]) / _REACHED if one.depends == CONTEXT else 0
        own += one.seconds(rows) + contextual
    return np.minimum(own, seconds)


def _active(
    uses: Sequence[OpUse], power: AcceleratorPower, rows: StepColumns, seconds: Values
) -> tuple[Values, dict[str, Values]]:
    """Joules of one accelerator in one step of each row, ``seconds`` of it, and their split by
    family.

    What kernels draw beside their work is split by time; contextual operators have the time that
    the others leave.
    """
    work: dict[str, Values] = {}
    time: dict[str, Values] = {}
    contextual: dict[str, Values] = {}
    for one in uses:
        use = one.use(rows)
        joules = power.memory_watts * use[:, MEMORY] + power.compute_watts * use[:, COMPUTE]
        _add(work, one.family, joules)
        _add(time, one.family, one.seconds(rows))
        if one.depends == CONTEXT:
            _add(contextual, one.family, use[:, MEMORY] + use[:, COMPUTE])
    zero = np.zeros(len(seconds))
    left = np.maximum(seconds - sum(time.values(), zero), 0.0)
    among = sum(contextual.values(), zero)
    for family, weight in contextual.items():
        time[family] = time[family] + left * weight / np.where(among > 0, among, 1.0)
    spent = sum(time.values(), zero)
    empty = spent <= 0
    spent = np.where(empty, 1.0, spent)
    total = sum(work.values(), zero)
    drawn = step_watts(power, total, seconds) * seconds
    asked = power.active_watts * seconds + total
    asked = np.where(asked > 0, asked, 1.0)
    beside = power.active_watts * seconds / spent
    shares = {f: (work[f] + beside * time[f]) / asked for f in work}
    return drawn, {**shares, DUMMY: empty.astype(np.float64)} if empty.any() else shares


def _prefill_share(uses: Sequence[OpUse], rows: StepColumns) -> Values:
    """Share of each step that its prefills would take if they and the decodes ran alone."""
    zero = np.zeros(len(rows.decodes))
    counted = [one for one in uses if one.depends in (TOKENS, GROUP)]
    prefill = sum((one.seconds_of(rows.prefill_tokens) for one in counted), zero)
    decode = sum((one.seconds_of(rows.decodes) for one in counted), zero)
    both = prefill + decode
    return np.asarray(np.where(both > 0, prefill / np.where(both > 0, both, 1.0), 0.0))


def _line(
    steps: StepRecords, in_steps: Values, busy: Values, powered: Powered, until_s: float
) -> tuple[Values, Values, dict[str, float]]:
    """Energy drawn over time, and the joules of waiting by state."""
    starts, ends = steps.column("start_s"), steps.column("end_s")
    inside = np.maximum(ends - starts - busy, 0.0)  # pauses between joined steps
    gap_from = np.concatenate(([0.0], ends))
    gap_to = np.concatenate((starts, [max(until_s, ends[-1] if len(ends) else 0.0)]))
    gaps = np.maximum(gap_to - gap_from, 0.0)
    states = {"standby": 0.0, "idle": 0.0}
    gap_joules, held_joules, held = np.zeros(len(gaps)), np.zeros(len(gaps)), np.zeros(len(gaps))
    step_joules = in_steps.copy()
    for power in powered.powers.values():
        held = np.minimum(gaps, power.standby_s)
        held[0] = 0.0  # nothing has run yet
        standing = power.standby_watts * powered.ranks
        idling = power.idle_watts * powered.ranks
        states["standby"] += standing * float(held.sum() + inside.sum())
        states["idle"] += idling * float((gaps - held).sum())
        held_joules += standing * held
        gap_joules += standing * held + idling * (gaps - held)
        step_joules += standing * inside
    # knots: start of the gap, end of the hold, end of the gap (= start of the row)
    times = np.column_stack((gap_from, gap_from + held, gap_from + gaps)).ravel()
    before = np.concatenate(([0.0], np.cumsum(gap_joules[:-1] + step_joules)))
    drawn = np.column_stack((before, before + held_joules, before + gap_joules)).ravel()
    return times, drawn, states


def _add(to: dict[str, Values], key: str, values: Values) -> None:
    to[key] = to[key] + values if key in to else values
