"""A whole measurement: probes, kernels, fits and the device file."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.load import load_device
from servesim.hardware.measure import collectives
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.device_file import Origin, device_text, measured_device
from servesim.hardware.measure.fitting import Fitted, Line, fit_all, line_of
from servesim.hardware.measure.forecast import affordable, reached
from servesim.hardware.measure.kernels import usable_makers
from servesim.hardware.measure.machine import Machine, header
from servesim.hardware.measure.noise import Estimate, estimate
from servesim.hardware.measure.plan import Group, Limits, plan
from servesim.hardware.measure.power import Draw, draw
from servesim.hardware.measure.probes import Probe, probes
from servesim.hardware.measure.ranks import OwnClock, Ranks
from servesim.hardware.measure.rounds import Progress, Session
from servesim.hardware.measure.store import Store
from servesim.hardware.measure.timer import Timer
from servesim.hardware.measure.unmeasured import Unmeasured, unmeasured

STORE, DEVICE_FILE = "kernels.jsonl", "device.toml"
#: Copies of weights and caches fill the last-level cache so many times over.
_CYCLES = 3.0
#: No kernel's operands take more than this share of memory.
_MEMORY_SHARE = 0.1
#: Collectives get no more than this share of the time.
_BETWEEN_SHARE = 0.2


@dataclass(frozen=True)
class Order:
    """What to measure, and how.

    Attributes:
        device: ``cpu`` or ``cuda``.
        kernels: who provides them: ``torch`` or ``vllm``.
        seconds: time for measuring; fits come on top.
        only: kinds of operator; all without any.
        command: what was typed, for the device file.
        block_size: tokens of a block of the KV cache.
        ranks: numbers of processes to measure collectives between.
        threads: CPU threads, of each process.
    """

    device: str
    kernels: str
    seconds: float
    limits: Limits
    only: Collection[str] = ()
    command: str = "servesim profile"
    block_size: int = 128
    ranks: Collection[int] = ()
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        kernels: work and time by name.
        peaks: seconds of the probes.
        unmeasured: what has no kernel here, failed or is too large.
        missing: planned kernels that time was too short for.
        interrupted: whether the user stopped it.
    """

    kernels: dict[str, tuple[Work, Estimate]]
    peaks: dict[Probe, Estimate]
    unmeasured: list[Unmeasured]
    missing: int
    draw: Draw | None
    interrupted: bool


@dataclass(frozen=True)
class Listener:
    """Who is told how far it is."""

    progress: Callable[[Progress], None] = lambda _: None
    fitting: Callable[[str], None] = lambda _: None


def measure(
    order: Order,
    machine: Machine,
    timer: Timer,
    graphs: Sequence[OpGraph],
    folder: Path,
    tell: Listener,
) -> Outcome:
    """Measure the kernels of ``graphs`` into ``folder``, or go on where it was stopped.

    Raises:
        InputError: the folder holds another machine's numbers, no kernel is left to measure, or
            the order contradicts itself.
    """
    deadline = time.monotonic() + order.seconds
    room = room_for(order, machine)
    about = header(machine, order.kernels) | {"block_size": order.block_size}
    known = usable_makers(order.kernels)
    together = collectives.groups(order.device, order.ranks, order.only)
    with Store(folder / STORE, about) as store:
        session = Session(known, room, timer, store, deadline, tell.progress)
        interrupted = False
        peaks: dict[Probe, Estimate] = {}
        groups: list[Group] = []
        drawn = None
        try:
            peaks = _probed(session, probes(room, machine.cache_bytes))
            drawn = _drawn(order, room, peaks)
            groups = plan(graphs, order.limits, order.only)
            groups = affordable(groups, reached(peaks), order.seconds)
            if not groups and not together:
                raise InputError(
                    "nothing to measure: no model has such operators within the limits"
                )
            run_together(session, order, together)
            session.run(groups)
            groups += together
        except KeyboardInterrupt:
            interrupted = True
        found = session.estimates()
    planned = {name for group in groups for name in group.works}
    lacking = unmeasured(graphs, order.limits, order.only, groups, session.refused)
    missing = len(planned - found.keys() - session.refused.keys())
    return Outcome(found, peaks, lacking, missing, drawn, interrupted)


def room_for(order: Order, machine: Machine) -> Room:
    """Where kernels run on ``machine``."""
    cycled, most = _CYCLES * machine.cache_bytes, _MEMORY_SHARE * machine.memory_bytes
    return Room(order.device, cycled, most, order.block_size)


def run_together(session: Session, order: Order, groups: Sequence[Group]) -> None:
    """Measure collectives, by processes that look at clocks of their own."""
    for group in groups:
        if session.settled(group):
            continue
        try:
            with Ranks(order.kernels, order.device, group.spec.ranks, order.threads) as ranks:
                makers = {group.family: partial(_same, ranks)}
                until = time.monotonic() + _BETWEEN_SHARE * order.seconds / len(groups)
                own = replace(session, makers=makers, timer=OwnClock(), deadline=until)
                own.run([group])
        except UnsupportedError as error:  # they did not start
            session.refused.update(dict.fromkeys(group.works, str(error)))


def _same(ranks: Ranks, spec: object, room: Room) -> Ranks:
    return ranks


def conclude(
    outcome: Outcome, machine: Machine, origin: Origin, path: Path, tell: Listener
) -> Fitted:
    """Fit what was measured and write the device file.

    Raises:
        InputError: too little was measured for a device.
    """
    everything = {work: found.seconds for work, found in outcome.kernels.values()}
    between: dict[Work, float] = {
        w: s for w, s in everything.items() if isinstance(w, CollectiveWork)
    }
    seconds = {w: s for w, s in everything.items() if w not in between}
    if not everything or not any(p.what == "read" for p in outcome.peaks):
        raise InputError("too little was measured for a device file; give it more --seconds")
    peaks = {probe: found.seconds for probe, found in outcome.peaks.items()}
    device = measured_device(path.stem, machine, peaks, seconds, outcome.draw)
    device = replace(device, scale_up=collectives.peer_link(between))
    fitted = fit_all(device, seconds, origin.source, tell.fitting)
    fitted.errors += collectives.errors(between)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = device_text(device, fitted, origin, collectives.collective_text(between, origin.source))
    path.write_text(text, encoding="utf-8")
    if seconds:
        fitted.errors.append(_whole(path, seconds))
    return fitted


def _probed(session: Session, wanted: Sequence[Probe]) -> dict[Probe, Estimate]:
    """Every probe three times over, unless the store has them."""
    for _ in range(3):
        for probe in wanted:
            if len(session.store.rounds.get(probe.name, ())) < 3:
                session.store.add(probe.name, session.once(probe.calls(session.room)))
    return {probe: estimate(session.store.rounds[probe.name]) for probe in wanted}


def _drawn(order: Order, room: Room, peaks: dict[Probe, Estimate]) -> Draw | None:
    if order.device != "cuda":
        return None
    import torch

    largest = max((p for p in peaks if p.what == "arithmetic"), key=lambda p: p.operand)
    return draw(largest.calls(room)[0], torch.cuda.synchronize, peaks[largest].seconds)


def _whole(path: Path, seconds: Mapping[Work, float]) -> Line:
    """How far the finished file is from all that was measured, noise included."""
    model = load_device(str(path)).cost_model
    errors = [model.cost(work).seconds / found - 1.0 for work, found in seconds.items()]
    return line_of("all", "device file, not held out", errors)
