"""Every example runs, at small size, and does what it is there to show."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from servesim import Result, Scenario, simulate
from servesim.cli.render_tiers import tiers_table
from servesim.graph.batch import BatchShape
from servesim.runtime import metrics
from servesim.scenario.build import build

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = 24


def run(name: str, **workload: object) -> Result:
    scenario = Scenario.load(EXAMPLES / f"{name}.toml")
    result = simulate(scenario, workload=workload) if workload else simulate(scenario)
    assert result.metrics.finished == result.metrics.requests
    return result


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_file_is_a_scenario(path: Path) -> None:
    assert Scenario.load(path).name == path.stem


def test_llama() -> None:
    got = run("llama-3.1-8b", num_requests=SMALL)
    # Llama-3.1-8B's model card: 8.03B parameters; 32 layers x 8 KV heads x 128, bf16.
    assert got.deployment.served[0].graph.parameters == 8_030_261_248
    assert got.deployment.served[0].graph.kv_bytes_per_token == 128 * 1024
    assert got.metrics.prefix_hit_rate > 0


def test_replay_finds_its_prefixes() -> None:
    got = run("replay")
    assert got.metrics.requests == 40
    assert got.metrics.prefix_hit_rate > 0.5


def test_burst_preempts() -> None:
    got = run("burst")
    assert got.metrics.preemptions > 0
    assert got.metrics.kv_use_peak > 0.99
    # Every gap between tokens is counted, those around preemptions too.
    requests = got.records.requests
    decoding = requests.column("finished_s") - requests.column("first_token_s")
    gaps = metrics.itl(got.records.instances)
    assert gaps.values.min() > 0
    assert gaps.values @ gaps.weights == pytest.approx(decoding.sum())


def test_kv_tiers_spare_what_the_devices_gave_up() -> None:
    got = run("kv-tiers", num_sessions=40)
    dram, nvme = got.records.tiers
    assert dram.column("hit_tokens")[-1] > 0
    assert nvme.column("written_bytes")[-1] > 0
    alone = simulate(got.scenario, offload={"tiers": []})
    assert got.metrics.prefix_hit_rate > alone.metrics.prefix_hit_rate
    assert got.metrics.ttft.mean < alone.metrics.ttft.mean
    shown = tiers_table(got)
    assert list(shown.columns[0].cells) == ["dram", "nvme"]
    share = dram.column("hit_tokens")[-1] / got.records.requests.column("prompt_tokens").sum()
    assert next(iter(shown.columns[5].cells)) == f"{share:.1%}"


def test_closed_loop_keeps_its_users() -> None:
    got = run("closed-loop", num_requests=SMALL, concurrency=4)
    assert max(one.steps.column("running").max() for one in got.records.instances) <= 4


def test_tensor_parallel_halves_the_weights() -> None:
    graph = run("tensor-parallel", num_requests=SMALL).deployment.served[0].graph
    assert graph.weight_bytes == pytest.approx(graph.parameters * 2 / 2, rel=0.01)


def test_moe_uses_a_tenth_of_its_weights_for_a_token() -> None:
    graph = run("moe", num_requests=SMALL).deployment.served[0].graph
    assert graph.active_parameters < 0.12 * graph.parameters
    assert graph.weight_bytes == pytest.approx(graph.parameters, rel=0.05)  # 8-bit, mostly


def test_two_instances_share_by_speed() -> None:
    got = run("two-instances", num_requests=200)
    sent = got.records.requests.column("instance")
    fast, slow, other = ((sent == number).sum() for number in range(3))
    assert fast > slow
    assert fast > other


def test_disaggregated_sends_all_kv_and_pays_for_it() -> None:
    got = run("disaggregated", num_requests=200)
    requests = got.records.requests
    kv = got.deployment.served[1].graph.kv_bytes_per_token * sum(requests.prompt_tokens)
    assert got.records.links["prefill -> switch"] == pytest.approx(kv)
    assert set(requests.prefill_instance) == {0}
    assert set(requests.instance) == {1, 2}
    # Layer by layer, little is left to send when the prefill ends.
    sending = requests.column("transfer_end_s") - requests.column("transfer_start_s")
    apart = simulate(EXAMPLES / "disaggregated.toml", workload={"num_requests": 200},
                     disaggregation={"transfer": "after_prefill"})  # fmt: skip
    assert got.metrics.ttft.mean < apart.metrics.ttft.mean
    assert sending.min() > 0


def test_prefill_and_decode_have_a_kind_of_gpu_each(tmp_path: Path) -> None:
    path, size = EXAMPLES / "prefill-h100-decode-h20.toml", {"num_requests": 60}
    got = run(path.stem, **size)
    prefill, decode = got.deployment.served
    # Of Qwen3-32B: 64 layers of 8 KV heads, keys and values of 128 in bf16.
    token, prompts = 64 * 2 * 8 * 128 * 2, got.records.requests.column("prompt_tokens")
    assert got.records.links["prefill -> switch"] == pytest.approx(token * prompts.sum())
    # 17 GB more of memory beside the same weights, nine tenths of it for use.
    more = decode.memory.kv_cache_tokens - prefill.memory.kv_cache_tokens
    assert more == pytest.approx(0.9 * (102.05e9 - 85.03e9) / token, rel=0.02)
    assert got.metrics.ttft.mean == pytest.approx(0.433, rel=0.03)
    assert got.metrics.tpot.mean == pytest.approx(25.5e-3, rel=0.03)
    other = tmp_path / "swapped.toml"
    text = path.read_text(encoding="utf-8")
    kinds = {"h100_sxm": "h20", "h20": "h100_sxm"}
    other.write_text(re.sub("|".join(kinds), lambda found: kinds[found[0]], text))
    swapped = simulate(other, workload=size)
    assert swapped.metrics.ttft.mean > 20 * got.metrics.ttft.mean  # cannot keep up
    # Where an H100 decodes, its memory fills up, and contexts wait with the prefill.
    equal = simulate(path, workload=size, hardware={"device": "h100_sxm"})
    assert equal.metrics.ttft.mean > 2 * got.metrics.ttft.mean
    times = [
        one.deployment.served[1].step_model.decode_seconds(16, 32_000, 2000) for one in (got, equal)
    ]
    assert times[0] < 0.9 * times[1]


def test_prefix_routing_finds_more_than_round_robin() -> None:
    got = run("prefix-routing", num_requests=400)
    plain = simulate(EXAMPLES / "prefix-routing.toml", workload={"num_requests": 400},
                     router={"kind": "round_robin"})  # fmt: skip
    assert got.metrics.prefix_hit_rate > 1.2 * plain.metrics.prefix_hit_rate
    assert got.metrics.ttft.mean < plain.metrics.ttft.mean


def test_failures_lose_nothing() -> None:
    got = run("failures", num_requests=200)
    assert sum(got.records.requests.retries) > 0
    assert {change.state.value for change in got.records.changes} == {"failed", "up"}


def test_autoscaling_starts_what_is_needed() -> None:
    got = run("autoscaling", num_requests=800)
    started = [one.steps.start_s[0] for one in got.records.instances if len(one.steps)]
    assert started[0] < 1
    assert started[1] >= 35  # 5 s until the first look, 30 s until it serves
    assert len(started) > 2


def test_two_models_keep_to_themselves() -> None:
    got = run("two-models")
    requests = got.records.requests
    names = [one.name for one in got.records.instances]
    assert {names[i] for i in requests.instance} == {"large-decode", "small"}
    assert sum(one > 0 for one in got.records.links.values()) == 2  # one way, under one switch


def test_two_servers_halve_the_weights_but_not_the_step() -> None:
    two = run("two-servers", num_requests=SMALL).deployment.served[0]
    one = simulate(EXAMPLES / "two-servers.toml", workload={"num_requests": SMALL},
                   engine={"tensor_parallel_size": 8}).deployment.served[0]  # fmt: skip
    assert two.graph.weight_bytes == pytest.approx(one.graph.weight_bytes / 2, rel=0.02)
    step = [served.step_model.decode_seconds(16, 16_000, 1000) for served in (one, two)]
    assert 0.6 * step[0] < step[1] < step[0]


def test_sweep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("sweep", EXAMPLES / "sweep.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RATES", (1, 30))
    module.main()
    slow, fast = capsys.readouterr().out.splitlines()[1:]
    assert float(slow.split()[2]) < float(fast.split()[2].replace(",", ""))


def test_pipeline_keeps_two_batches_in_flight() -> None:
    got = run("pipeline", num_requests=SMALL, rate=40.0, output_tokens=100)
    assert [one.graph.num_layers for one in got.deployment.served[0].placements] == [40, 40]
    steps = got.records.instances[0].steps
    rows = steps.column("end_s") - steps.column("start_s")
    assert got.metrics.itl.p50 > 1.8 * np.median(rows)


def test_wide_expert_parallel_takes_its_steps_together() -> None:
    got = run("wide-expert-parallel", num_requests=SMALL)
    served = got.deployment.served[0]
    assert served.devices == len(served.engines) == 8
    assert len({tuple(one.steps.end_s) for one in got.records.instances}) == 1
    # Of 235B parameters in 8 bits, an eighth of the experts and all else.
    assert served.graph.weight_bytes < 235e9 / 4


def test_the_busiest_rank_sets_the_pace_and_replicas_spare_it() -> None:
    def step(routing: dict[str, object], **engine: object) -> float:
        got = Scenario.load(EXAMPLES / "wide-expert-parallel.toml").changed(
            model={"expert_routing": routing}, engine=engine
        )
        return build(got).served[0].step_model.seconds(BatchShape.of_tokens(512))

    zipf = {"kind": "zipf", "exponent": 0.8}
    alone = {"enable_eplb": False, "num_redundant_experts": 0}
    even, skewed = step({"kind": "uniform"}, **alone), step(zipf, **alone)
    balanced, replicated = step(zipf, num_redundant_experts=0), step(zipf)
    assert even < skewed
    assert replicated <= balanced < skewed
    # Layers wait for each other: which ranks are busy in several of them changes no step.
    assert step({**zipf, "correlation": 1.0}) == pytest.approx(replicated, rel=1e-6)


def test_speculative_decoding_gains_what_its_rates_say() -> None:
    got = run("speculative-decoding", num_requests=SMALL, output_tokens=300)
    steps = got.records.instances[0].steps
    gained = 1 + steps.column("extra_tokens").sum() / steps.column("decodes").sum()
    assert gained == pytest.approx(1 + 0.8 + 0.8 * 0.7 + 0.8 * 0.7 * 0.65 * 1.6, rel=0.03)


def test_long_context_is_shared_by_two() -> None:
    got = run("long-context", num_requests=8)
    served = got.deployment.served[0]
    assert served.devices == 8
    assert served.graph.kv_bytes_per_token == 80 * 2 * 2 * 128 * 2 / 2  # of 2 KV heads a rank


def test_adapters_cost_time_and_room() -> None:
    got = run("adapters", num_requests=SMALL)
    plain = simulate(
        Scenario.load(EXAMPLES / "adapters.toml"),
        engine={"enable_lora": False},
        workload={"num_requests": SMALL, "adapters": 0},
    )
    assert got.metrics.tpot.mean > plain.metrics.tpot.mean
    with_, without = (one.deployment.served[0].memory for one in (got, plain))
    # Rank 16 on qkv (3 down), o, gate and up (2 down) and down projections of 32 layers, 4 slots.
    one = 16 * (3 * 4096 + 6144 + 4096 + 4096 + 2 * 4096 + 28672 + 14336 + 4096) * 2 * 32
    assert with_.weight_bytes - without.weight_bytes == pytest.approx(4 * one, rel=0.1)
