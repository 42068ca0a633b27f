"""The measuring loop under a clock that the tests set: it is the same for every device."""

import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.hardware.measure import rounds, timer
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.noise import MOST
from servesim.hardware.measure.plan import Limits, plan
from servesim.hardware.measure.rounds import Session
from servesim.hardware.measure.store import Store

ROOM = Room("cpu", 1e6, 1e9)


class Clock:
    """A timer that answers what ``says`` does, a clock that goes on by as much, and a log."""

    def __init__(self, says):
        self.says, self.now, self.log = says, 0.0, []

    def seconds(self, calls, after=None):
        found = [self.says(call()) for call in calls]
        self.now += sum(found)
        self.log.append(calls[0]())
        return found

    def monotonic(self):
        return self.now


class Bench:
    def __init__(self, spec, room):
        self.kind = spec.kind

    def calls(self, work):
        return [lambda: (self.kind, work)] * 2


@pytest.fixture
def groups(graph):
    return plan([graph], Limits(8, 4, 64), only=["norm", "lm_head"])


def session(tmp_path, clock, deadline=1e9, makers=None, monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr(rounds.time, "monotonic", clock.monotonic)
    store = Store(tmp_path / "kernels.jsonl", {})
    kinds = makers or {"norm": Bench, "lm_head": Bench}
    return Session(kinds, ROOM, clock, store, deadline)


def test_quiet_kernels_get_three_rounds_one_after_another(tmp_path, groups):
    clock = Clock(lambda _: 1e-3)
    found = session(tmp_path, clock)
    found.run(groups)
    assert {len(r) for r in found.store.rounds.values()} == {3}
    lines = (tmp_path / "kernels.jsonl").read_text().splitlines()[1:]
    third = len(lines) // 3
    names = [line.split('"seconds"')[0] for line in lines]
    assert names[:third] == names[third : 2 * third] == names[2 * third :]


def test_only_noisy_kernels_are_repeated(tmp_path, groups):
    clock = Clock(lambda asked: 1e-3 * (1 + len(clock.log) % 7 * (asked[0] == "norm")))
    found = session(tmp_path, clock)
    found.run(groups)
    rounds = {
        group.family: {len(found.store.rounds[name]) for name in group.works} for group in groups
    }
    assert rounds["lm_head"] == {3}
    assert max(rounds["norm"]) > 3
    assert max(rounds["norm"]) <= MOST


def test_time_that_is_up_ends_the_round_and_a_second_run_goes_on(tmp_path, groups, monkeypatch):
    clock = Clock(lambda _: 1e-3)
    first = session(tmp_path, clock, deadline=0.1, monkeypatch=monkeypatch)
    first.run(groups)
    first.store.__exit__(None, None, None)
    some = sum(map(len, first.store.rounds.values()))
    total = 3 * sum(len(group.works) for group in groups)
    assert 0 < some < total
    clock.now = 0.0
    second = session(tmp_path, clock, monkeypatch=monkeypatch)
    second.run(groups)
    assert sum(map(len, second.store.rounds.values())) == total
    assert len((tmp_path / "kernels.jsonl").read_text().splitlines()) == total + 1


def test_an_interruption_keeps_what_is_measured(tmp_path, groups):
    count = 0

    def says(_):
        nonlocal count
        count += 1
        if count == 50:
            raise KeyboardInterrupt
        return 1e-3

    found = session(tmp_path, Clock(says))
    with pytest.raises(KeyboardInterrupt):
        found.run(groups)
    kept = len((tmp_path / "kernels.jsonl").read_text().splitlines()) - 1
    assert kept == sum(map(len, found.store.rounds.values())) > 0


def test_a_kernel_is_timed_after_warming_up_on_copies_in_turn(tmp_path):
    asked = []
    clock = Clock(lambda name: asked.append(name) or (9.0 if len(asked) < 2 else 2e-3))
    found = session(tmp_path, clock)
    assert found.once([lambda: "a", lambda: "b"]) == 2e-3
    assert asked == ["a", "b", *["a", "b"] * 3]


def test_products_and_small_operators_are_timed_after_one_of_the_other_kind(monkeypatch):
    from servesim.graph.work import GemmWork, MemoryWork
    from servesim.hardware.measure.company import Neighbour, company_of

    ran = []
    monkeypatch.setattr(Neighbour, "run", lambda _, what: ran.append((what.kind, what.rows)))
    for work in (GemmWork(5, 8, 8), MemoryWork("norm", 12, 8.0, 8.0, per_token=4)):
        timer.CpuTimer().seconds([lambda: ran.append("call")] * 2, company_of(work))
    assert ran == [("small", 1), "call"] * 2 + [("product", 3), "call"] * 2


def test_what_has_no_kernel_is_named_and_the_rest_measured(tmp_path, groups):
    def refuses(spec, room):
        raise UnsupportedError("not on this device")

    makers = {"norm": refuses, "lm_head": Bench}
    found = session(tmp_path, Clock(lambda _: 1e-3), makers=makers)
    found.run(groups)
    assert set(found.refused) == {name for g in groups if g.family == "norm" for name in g.works}
    assert set(found.refused.values()) == {"not on this device"}
    assert {work.family for work, _ in found.estimates().values()} == {"gemm"}


def test_one_kernel_that_fails_is_noted_and_the_others_of_its_operator_measured(tmp_path, groups):
    tried = []

    class Fails(Bench):
        def calls(self, work):
            if work.m == 2:
                tried.append(work)
                raise RuntimeError("CUDA out of memory.\nTried to allocate 1 GiB")
            return super().calls(work)

    makers = {"norm": Bench, "lm_head": Fails}
    found = session(tmp_path, Clock(lambda _: 1e-3), makers=makers)
    found.run(groups)
    assert list(found.refused.values()) == ["RuntimeError: CUDA out of memory."]
    assert len(tried) == 1
    measured = {work.m for work, _ in found.estimates().values() if work.family == "gemm"}
    assert measured == {1, 3, 4}


def test_progress_counts_up_and_time_left_falls(tmp_path, groups, monkeypatch):
    seen = []
    found = session(tmp_path, Clock(lambda _: 1e-3), monkeypatch=monkeypatch)
    found.show = seen.append
    found.run(groups)
    last = [p for p in seen if p.round == 3][-1]
    assert last.done == last.total
    assert last.left_s == 0.0
    assert seen[0].left_s > seen[-2].left_s


def test_timers_by_name():
    assert isinstance(timer.timer_for("cpu"), timer.CpuTimer)
    with pytest.raises(UnknownNameError, match="tpu"):
        timer.timer_for("tpu")


def test_without_a_gpu_cuda_is_refused():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="no CUDA device"):
        timer.timer_for("cuda")
