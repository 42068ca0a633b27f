"""Whether a device file still holds: a few of its kernels, measured again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from servesim.errors import InputError
from servesim.graph.opgraph import OpGraph
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.collective_tables import collective_cost
from servesim.hardware.cost import Cost, Source
from servesim.hardware.device import Device
from servesim.hardware.load import load_device
from servesim.hardware.measure import collectives
from servesim.hardware.measure.device_file import software, software_noted
from servesim.hardware.measure.fitting import Line, line_of
from servesim.hardware.measure.kernels import usable_makers
from servesim.hardware.measure.machine import Machine, versions
from servesim.hardware.measure.plan import Group, plan
from servesim.hardware.measure.rounds import Session
from servesim.hardware.measure.session import Listener, Order, room_for, run_together
from servesim.hardware.measure.store import Store
from servesim.hardware.measure.timer import Timer
from servesim.hardware.measure.unmeasured import Unmeasured, unmeasured

#: Costs that rest on measurements.
_KNOWN = (Source.MEASURED, Source.CALIBRATED)


@dataclass(frozen=True)
class Check:
    """How far a device file is off today.

    Attributes:
        differences: what is not as the file notes it (machine, versions).
        line: errors of the file against what was measured now.
        kernels: (work, seconds by the file, seconds now), the worst first.
        unmeasured: of the sample, what could not be.
    """

    differences: list[str]
    line: Line
    kernels: list[tuple[Work, float, float]]
    unmeasured: list[Unmeasured]


def check(
    order: Order,
    machine: Machine,
    timer: Timer,
    graphs: Sequence[OpGraph],
    path: Path,
    sample: int,
    tell: Listener,
) -> Check:
    """Measure ``sample`` of the kernels of ``graphs`` that the device file at ``path`` knows.

    Raises:
        InputError: it knows none of them, or none could be measured.
    """
    device = load_device(str(path))
    differences = _differences(device, path, machine, order.kernels)
    known = usable_makers(order.kernels)
    planned = [g for g in plan(graphs, order.limits, order.only) if g.family in known]
    planned += collectives.groups(order.device, order.ranks, order.only)
    told = _told(device, order.ranks)
    groups = _sample(planned, told, sample)
    if not groups:
        raise InputError(f"{path} knows no kernel of these models; name those it was measured with")
    deadline = time.monotonic() + order.seconds
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "check", {}) as store:
        session = Session(known, room_for(order, machine), timer, store, deadline, tell.progress)
        run_together(session, order, [group for group in groups if group.family not in known])
        session.run([group for group in groups if group.family in known])
        now = {work: found.seconds for work, found in session.estimates().values()}
    lacking = unmeasured((), order.limits, (), groups, session.refused)
    if not now:
        why = lacking[0].why if lacking else "time ran out; give more --seconds"
        raise InputError(f"none of the kernels could be measured: {why}")
    rows = [(work, told(work).seconds, seconds) for work, seconds in now.items()]
    rows.sort(key=lambda row: -abs(row[1] / row[2] - 1.0))
    line = line_of("all", "device file, today", [told / found - 1.0 for _, told, found in rows])
    return Check(differences, line, rows, lacking)


def _told(device: Device, ranks: Collection[int]) -> Callable[[Work], Cost]:
    """What the file says of a kernel, or of a collective.

    Raises:
        InputError: there are ``ranks``, and it knows of no link between devices.
    """
    between = collective_cost(device, load_device) if ranks else None

    def told(work: Work) -> Cost:
        if between is not None and isinstance(work, CollectiveWork):
            return between.cost(work)
        return device.cost_model.cost(work)

    return told


def _sample(groups: Sequence[Group], told: Callable[[Work], Cost], count: int) -> list[Group]:
    """At most ``count`` kernels with measured costs, each as likely as any other."""
    names = [
        name
        for group in groups
        for name, work in group.works.items()
        if told(work).source in _KNOWN
    ]
    draw = np.random.default_rng(0)
    chosen = {names[i] for i in draw.permutation(len(names))[:count]}
    kept = (
        replace(group, works={name: w for name, w in group.works.items() if name in chosen})
        for group in groups
    )
    return [group for group in kept if group.works]


def _differences(device: Device, path: Path, machine: Machine, kernels: str) -> list[str]:
    noted, today = software_noted(path), software(kernels, versions())
    found = []
    if device.title != machine.title:
        found.append(f"the machine was {device.title!r}, is {machine.title!r}")
    if noted is None:
        found.append("the file does not say what it was measured with")
    elif noted != today:
        found.append(f"the software was {noted!r}, is {today!r}")
    return found
