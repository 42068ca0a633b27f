"""List schedules: by hand, against their bounds, and closed form against one by one."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servesim.hardware import schedule
from servesim.hardware.schedule import Machine, Stretch, Task, makespan

RESOURCES = ("gpu", "pim", "wire", "back")


def two(pre, attention, post, lanes, count):
    tasks = (
        Task(("gpu",), pre),
        Task(("pim",), attention, (0,)),
        Task(("gpu",), post, (1,)),
    )
    return Stretch((tasks,) * lanes, count)


def test_one_lane_is_a_plain_sum():
    assert makespan([two(1.0, 2.0, 3.0, 1, 10)]) == pytest.approx(60.0)


def test_two_lanes_hide_the_shorter_device():
    # GPU-bound: 80 halves of 4 s on the GPU; only the first attention finds nothing to hide under.
    got = makespan([two(1.0, 2.0, 3.0, 2, 40)])
    assert 40 * 2 * 4 <= got <= 40 * 2 * 4 + 2
    # PIM-bound: 80 attentions of 9 s back to back, after one GEMM and before the last.
    assert makespan([two(1.0, 9.0, 3.0, 2, 40)]) == pytest.approx(40 * 2 * 9 + 1 + 3)


def test_independent_tasks_overlap_and_dependent_ones_wait():
    a, b = Task(("gpu",), 2.0), Task(("pim",), 3.0)
    assert makespan([Stretch(((a, b, Task(("gpu",), 1.0, (0, 1))),))]) == 4.0
    assert makespan([Stretch(((a, Task(("pim",), 3.0, (0,))),))]) == 5.0
    # A way over two links holds both: the second transfer waits for the shared one.
    way, hop = Task(("wire", "back"), 1.0), Task(("back",), 1.0)
    assert makespan([Stretch(((way, hop),))]) == 2.0


TIMES = st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.0, 0.1])


@st.composite
def stretches(draw):
    n = draw(st.integers(1, 5))
    shape = [
        (
            tuple(draw(st.lists(st.sampled_from(RESOURCES), min_size=1, max_size=2, unique=True))),
            tuple(draw(st.lists(st.integers(0, i - 1), max_size=2))) if i else (),
        )
        for i in range(n)
    ]
    lanes = tuple(
        tuple(Task(resources, draw(TIMES), after) for resources, after in shape)
        for _ in range(draw(st.integers(1, 3)))
    )
    return Stretch(lanes, draw(st.integers(1, 60)))


@given(st.lists(stretches(), min_size=1, max_size=3))
@settings(deadline=None)
def test_never_faster_than_a_resource_nor_slower_than_the_sum(given_stretches):
    busy, total = defaultdict(float), 0.0
    for stretch in given_stretches:
        for task in (task for lane in stretch.lanes for task in lane):
            total += stretch.count * task.seconds
            for name in task.resources:
                busy[name] += stretch.count * task.seconds
    got = makespan(given_stretches)
    assert max(busy.values()) * (1 - 1e-9) <= got <= total * (1 + 1e-9)


#: Starts that only rounding tells apart.
ALMOST_AT_ONCE = Stretch(
    tuple(
        tuple(Task((name,), seconds, (0,) if name == "wire" else ()) for name, seconds in tasks)
        for tasks in (
            (("pim", 3.0), ("gpu", 1.0), ("wire", 0.0), ("gpu", 3.0)),
            (("pim", 3.0), ("gpu", 3.0), ("wire", 1.5), ("gpu", 0.0)),
            (("pim", 1.0), ("gpu", 0.1), ("wire", 0.0), ("gpu", 0.0)),
        )
    ),
    47,
)


@given(stretches())
@example(ALMOST_AT_ONCE)
@settings(deadline=None)
def test_the_closed_form_is_the_schedule_of_every_repetition(stretch):
    class Plain(dict):
        """A memory of states that never finds one again."""

        def setdefault(self, key, value):
            return value

    machine = Machine([0.0] * len(stretch.lanes))
    plain = schedule._Run(machine, stretch)
    plain.seen = Plain()
    plain.finish()
    assert makespan([stretch]) == pytest.approx(machine.end, rel=1e-9)


def test_many_equal_layers_cost_as_few(monkeypatch):
    commits = []
    commit = schedule._Run._commit
    monkeypatch.setattr(
        schedule._Run, "_commit", lambda run, lane: (commits.append(1), commit(run, lane))[1]
    )
    makespan([two(1.0, 2.0, 3.0, 2, 10)])
    few = len(commits)
    makespan([two(1.0, 2.0, 3.0, 2, 1000)])
    assert len(commits) - few <= few
