"""The server in front of the engines."""

from __future__ import annotations

import math

import pytest

from servesim.errors import InputError
from servesim.runtime.frontend import Desk, FrontEnd, Outlet
from servesim.scenario.load import Layer
from servesim.scenario.run import run
from servesim.scenario.spec import Scenario


def test_requests_wait_for_their_turn() -> None:
    desk = Desk(FrontEnd(request_s=0.25, prompt_token_s=0.125))
    assert desk.through(1.0, 2) == 1.5
    assert desk.through(1.0, 2) == 2.0  # behind the first
    assert desk.through(5.0, 0) == 5.25


def test_two_servers_take_two_at_a_time() -> None:
    desk = Desk(FrontEnd(request_s=1.0, api_server_count=2))
    assert [desk.through(0.0, 9) for _ in range(4)] == [1.0, 1.0, 2.0, 2.0]
    # More servers than there are requests, or than a list can hold: nobody waits.
    desk = Desk(FrontEnd(request_s=1.0, api_server_count=10**20))
    assert [desk.through(0.0, 9) for _ in range(4)] == [1.0] * 4


@pytest.mark.parametrize(
    "table",
    [
        {"request_s": -1.0},
        {"request_s": math.inf},
        {"prompt_token_s": math.nan},
        {"response_s": 1e9},
        {"token_s": -1e-6},
        {"api_server_count": 0},
    ],
)
def test_impossible_values_are_refused(table: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(table))):
        FrontEnd(**table)  # type: ignore[arg-type]


def test_answers_leave_one_after_another() -> None:
    outlet = Outlet(0.25)
    assert outlet.late_s(1.0, 2) == 0.5
    assert outlet.late_s(1.25, 2) == 0.75  # from 1.5 on, when those before are out
    assert outlet.late_s(9.0, 1) == 0.25
    assert Outlet().late_s(1.0, 10**9) == 0


def test_engines_share_servers_beyond_one_each() -> None:
    frontend = FrontEnd(token_s=0.5, api_server_count=4)
    assert Outlet.of(frontend, 2).late_s(0.0, 1) == 0.25
    assert Outlet.of(frontend, 8).late_s(0.0, 1) == 0.5


def _latencies(frontend: dict[str, float] | None) -> tuple[float, float, float]:
    tables: dict[str, dict[str, object]] = {
        "model": {"id": "Qwen/Qwen2.5-0.5B-Instruct"},
        "hardware": {"device": "h100_sxm"},
        "workload": {
            "kind": "fixed_rate",
            "rate": 1.0,
            "num_requests": 3,
            "prompt_tokens": 100,
            "output_tokens": 5,
        },
    }
    if frontend is not None:
        tables["frontend"] = dict(frontend)
    report = run(Scenario.from_layers(Layer(tables))).metrics
    return report.ttft.mean, report.tpot.mean, report.e2e.mean


def test_clients_see_what_the_front_end_takes() -> None:
    without = _latencies(None)
    table = {"request_s": 0.003, "prompt_token_s": 1e-5, "response_s": 0.001, "token_s": 0.0}
    behind = _latencies(table)
    added = [b - a for a, b in zip(without, behind, strict=True)]
    assert added == pytest.approx([0.005, 0.0, 0.005], abs=1e-12)
    slower = _latencies({**table, "token_s": 1e-4})  # one answer at a time
    added = [b - a for a, b in zip(behind, slower, strict=True)]
    assert added == pytest.approx([1e-4, 0.0, 1e-4], abs=1e-12)


def test_a_server_too_slow_for_its_engine_falls_behind() -> None:
    latencies = _latencies({"request_s": 0.0, "response_s": 0.0, "token_s": 0.1})
    assert latencies[2] == pytest.approx(0.5, abs=0.02)  # five tokens, whatever the steps take
    assert latencies[1] == pytest.approx(0.1, abs=0.01)


def test_a_front_end_that_takes_no_time_changes_nothing() -> None:
    nothing = {"request_s": 0.0, "prompt_token_s": 0.0, "response_s": 0.0, "token_s": 0.0}
    assert _latencies(nothing) == _latencies(None)
    assert _latencies({}) > _latencies(None)  # by default, what vLLM's takes
