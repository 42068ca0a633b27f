"""The examples of power and cost give what they are expected to; compare sets them side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from servesim import Result, Scenario, simulate
from servesim.cli.main import main
from servesim.errors import InputError
from servesim.runtime.records import Change, State
from servesim.scenario.capacity import attained, highest_rate, too_short
from servesim.scenario.cost import cost_of, stopped_s
from servesim.scenario.energy import power_lines
from servesim.scenario.files import write_text

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def bursts() -> Result:
    return simulate(Scenario.load(EXAMPLES / "power.toml"))


def test_the_example_of_a_server(bursts: Result) -> None:
    energy = bursts.energy
    assert energy is not None
    # What does not depend on the load: 150 W of board and fans, four DIMMs of 4 W, a network card
    # of 11 W and a drive of 6 W.
    fixed = {"base": 150, "dram": 16, "nic": 11, "storage": 6}
    for name, watts in fixed.items():
        assert energy.components[name] == pytest.approx(watts * energy.seconds, rel=1e-3)
    # 60 W idle and, of 125 W more, a fifth at rest and three tenths while steps run.
    busy = energy.engines[0].busy_s
    expected = 60 * energy.seconds + 125 * (0.2 * energy.seconds + 0.1 * busy)
    assert energy.components["cpu"] == pytest.approx(expected)
    # The GPU waits between the bursts: 18 s at 89 W, the rest at 33 W.
    assert energy.states["standby"] == pytest.approx(2 * 18 * 89)
    waits = energy.seconds - busy - 2 * 18
    assert energy.states["idle"] == pytest.approx(33 * waits)
    assert energy.states["active"] == pytest.approx(300 * busy)


def test_the_cost_by_hand(bursts: Result) -> None:
    cost, energy = bursts.cost, bursts.energy
    assert energy is not None
    hours = bursts.metrics.makespan_s / 3600
    assert cost.usd == pytest.approx(0.8 * hours)
    assert cost.carbon_g == pytest.approx(energy.total / 3.6e6 * 400)
    requests = bursts.records.requests
    prompt, output = (requests.column(n).sum() for n in ("prompt_tokens", "output_tokens"))
    assert cost.usd_per_million_input is not None
    assert cost.usd_per_million_output is not None
    both = cost.usd_per_million_input * prompt + cost.usd_per_million_output * output
    assert both / 1e6 == pytest.approx(cost.usd)


def test_electricity_is_added_where_it_is_paid_for() -> None:
    got = simulate(
        Scenario.load(EXAMPLES / "power.toml"),
        cost={"usd_per_device_hour": 0.0, "usd_per_kwh": 0.25},
        workload={"num_requests": 5},
    )
    assert got.energy is not None
    assert got.cost.usd == pytest.approx(got.energy.total / 3.6e6 * 0.25)


def test_unknown_rent_and_power_are_not_zero() -> None:
    got = simulate(
        model="meta-llama/Llama-3.1-8B",
        hardware="tpu_v6e",
        engine={"tensor_parallel_size": 1, "max_model_len": 4096},
        workload={"num_requests": 3, "rate": 1.0, "prompt_tokens": 100, "output_tokens": 10},
    )
    assert got.energy is None
    assert got.cost.usd is None
    assert "usd_per_device_hour" in got.cost.basis


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(EXAMPLES / name) for name in ("power-cap.toml", "no-cap.toml")]
    assert main(["compare", *files, "--ttft", "0.3", "--tpot", "0.02", "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    capped, free = got["power-cap"], got["no-cap"]
    assert capped["mean_watts"] < 450 < free["mean_watts"]
    assert capped["joules_per_output_token"] < free["joules_per_output_token"]
    assert capped["ttft_mean_s"] > free["ttft_mean_s"]
    assert capped["goodput_requests_per_s"] < free["goodput_requests_per_s"]
    assert free["goodput_requests_per_s"] <= free["requests_per_s"]
    assert free["offered_requests_per_s"] == pytest.approx(10.0, rel=0.15)
    assert free["slo"] == {"ttft_s": 0.3, "tpot_s": 0.02, "e2e_s": None}


def test_the_highest_rate_that_keeps_the_objective() -> None:
    scenario = Scenario.of(
        model="meta-llama/Llama-3.1-8B",
        hardware="h100_sxm",
        engine={"max_model_len": 4096},
        workload={"rate": 60.0, "num_requests": 120, "prompt_tokens": 500, "output_tokens": 20},
        slo={"ttft_s": 0.2, "tpot_s": 0.03},
    )
    found = highest_rate(scenario, 0.9, tolerance=0.1)
    assert attained(found) >= 0.9
    rate = found.scenario.workload.options["rate"]
    assert attained(simulate(scenario, workload={"rate": rate * 1.2})) < 0.9
    with pytest.raises(InputError, match="objective"):
        highest_rate(Scenario.load(EXAMPLES / "no-cap.toml"))
    with pytest.raises(InputError, match="has no rate"):
        highest_rate(Scenario.load(EXAMPLES / "replay.toml"))
    # One request alone takes 0.2 s: they do not meet below a rate of 0.25, and slower is no better.
    with pytest.raises(InputError, match=r"not even at 0\.\d+ requests/s"):
        highest_rate(scenario.changed(slo={"ttft_s": 1e-6}), 0.9)
    assert too_short(simulate(scenario, workload={"num_requests": 20}))
    assert not too_short(simulate(scenario, workload={"rate": 10.0}))


def test_compare_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(EXAMPLES / "replay.toml"), str(EXAMPLES / "replay.toml")]) == 0
    text = capsys.readouterr().out
    assert "replay (1)" in text
    assert "J per output token" in text
    assert "SLO: none" in text


def test_power_over_time_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "watts.csv"
    flags = ["--set", "power.resolution_s=10", "--num-requests", "20", "--power", str(file)]
    path = str(EXAMPLES / "power.toml")
    assert main(["simulate", path, *flags, "--output-dir", str(tmp_path), "--quiet"]) == 0
    head, *rows = file.read_text().splitlines()
    assert head == "time_s,watts"
    watts = [float(row.split(",")[1]) for row in rows]
    assert max(watts) == watts[0] > 1.5 * min(watts)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"power": {"cpus": {}}}, "cpus"),
        ({"power": {"pue": 0.5}}, "pue"),
        ({"power": {"resolution_s": 0}}, "resolution_s"),
        ({"cost": {"usd_per_kwh": -1}}, "usd_per_kwh"),
        ({"hardware": {"device": "h100_sxm", "clock_mhz": 5000.0}}, "clock_mhz"),
        ({"hardware": {"device": "h100_sxm", "power_limit_watts": 10.0}}, "limit"),
        ({"hardware": {"device": "tpu_v6e", "power_limit_watts": 100.0}}, "not known"),
    ],
)
def test_what_cannot_be_is_refused(section: dict[str, dict[str, object]], message: str) -> None:
    sections = {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm", **section}
    workload = {"num_requests": 1, "rate": 1.0, "prompt_tokens": 8, "output_tokens": 2}
    with pytest.raises(InputError, match=message):
        simulate(**sections, engine={"max_model_len": 4096}, workload=workload).energy  # noqa: B018


def test_stopped_instances_cost_nothing() -> None:
    got = simulate(
        model="Qwen/Qwen3-0.6B",
        hardware="h100_sxm",
        instance=[{"count": 2}],
        workload={"kind": "fixed_rate", "rate": 1.0, "num_requests": 10, "output_tokens": 1},
        cost={"usd_per_device_hour": 3.0},
    )
    assert got.cost.usd_per_hour == pytest.approx(6.0)
    first = got.records.requests.arrival_s[0]
    times = [(first - 1.0, State.STOPPED), (first + 2.0, State.STARTING), (first + 3.0, State.UP),
             (first + 5.0, State.STOPPED)]  # fmt: skip
    changes = tuple(Change(time, 1, state) for time, state in times)
    records = dataclasses.replace(got.records, changes=changes)
    span = got.metrics.makespan_s
    assert stopped_s(records) == [0.0, pytest.approx(2.0 + span - 5.0)]
    cost = cost_of(got.deployment, records, None)
    assert cost.usd == pytest.approx(3.0 / 3600 * (span + 3.0))
    assert cost.usd_per_hour == pytest.approx(3.0 * (1 + 3.0 / span))


def test_power_over_time_has_a_finest_resolution(bursts: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resolution_s 1e-09 is too fine"):
        write_text(power_lines(bursts.energy, 1e-9), tmp_path / "watts.csv")
    assert not list(tmp_path.iterdir())


def test_ranks_that_wait_for_others_draw_power() -> None:
    scenario = Scenario.load(EXAMPLES / "wide-expert-parallel.toml")
    energy = simulate(scenario, workload={"num_requests": 4}).energy
    assert energy is not None
    assert energy.families["dummy steps"] > 0.3 * energy.states["active"]
    assert sum(energy.families.values()) == pytest.approx(energy.states["active"])


@pytest.mark.parametrize(
    ("flags", "cost"),
    [
        ((), "unknown: no rent of tpu_v5e is known: give [cost] usd_per_device_hour"),
        (("--set", "cost.usd_per_device_hour=2"), "per million tokens at $2/h"),
    ],
)
def test_what_is_not_known_is_said(
    flags: tuple[str, ...], cost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", "Qwen/Qwen3-0.6B", "--hardware", "tpu_v5e", "--num-requests", "3")
    assert main(["simulate", *model, *flags, "--output-dir", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "energy unknown: give [hardware] power" in out
    assert cost in out
