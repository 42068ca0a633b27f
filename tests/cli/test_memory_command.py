"""``servesim memory``: the keys of its JSON, and errors in one line."""

from __future__ import annotations

import json

import pytest

from servesim.cli.main import main

LLAMA = ["memory", "meta-llama/Llama-3.1-8B", "--hardware", "H100"]


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, float]:
    assert main([*LLAMA, "--json", *options]) == 0
    values: dict[str, float] = json.loads(capsys.readouterr().out)
    return values


def test_json_has_whole_bytes_under_the_documented_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = planned(capsys, "--gpu-memory-utilization", "0.95")
    documented = {
        "weight_bytes",
        "activation_peak_bytes",
        "reserve_bytes",
        "kv_cache_bytes",
        "kv_cache_blocks",
        "kv_cache_tokens",
    }
    assert documented <= set(plan)
    assert all(isinstance(plan[key], int) for key in documented)
    parts = ("weight_bytes", "activation_peak_bytes", "reserve_bytes", "kv_cache_bytes")
    assert sum(plan[part] for part in parts) == pytest.approx(0.95 * 85.03e9, abs=4)
    assert plan["kv_cache_tokens"] == 16 * plan["kv_cache_blocks"]


def test_engine_options_matter(capsys: pytest.CaptureFixture[str]) -> None:
    plain = planned(capsys)
    narrow = planned(capsys, "--kv-cache-dtype", "fp8", "--quantization", "fp8")
    assert narrow["weight_bytes"] < 0.6 * plain["weight_bytes"]
    assert narrow["kv_cache_tokens"] > 2 * plain["kv_cache_tokens"]
    shared = planned(capsys, "--tensor-parallel-size", "2")
    assert shared["reserve_bytes"] > plain["reserve_bytes"]
    small = planned(capsys, "--max-num-seqs", "8", "--max-num-batched-tokens", "512")
    assert small["activation_peak_bytes"] < 0.1 * plain["activation_peak_bytes"]


def test_the_table_names_model_and_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(LLAMA) == 0
    shown = capsys.readouterr().out
    assert "meta-llama/Llama-3.1-8B" in shown
    assert "NVIDIA H100" in shown
    assert "KV cache" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-model-len", "200000"], "longer than the context"),
        (["--gpu-memory-utilization", "0.2"], "does not fit"),
        (["--quantization", "fp9"], "did you mean 'fp8'"),
        (["--kv-cache-dtyp", "fp8"], "did you mean --kv-cache-dtype"),
        (["--max-num-seqs", "0"], "max_num_seqs must be at least 1"),
        (["--tensor-parallel-size", "3"], "do not divide among the 3|divide"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main([*LLAMA, *options]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert any(text in found.err for text in message.split("|"))


def test_experts_and_drafters_count(capsys: pytest.CaptureFixture[str]) -> None:
    def weights(*flags: str) -> float:
        words = ["memory", "Qwen/Qwen3-30B-A3B", "--hardware", "h100_sxm", "--json", *flags]
        assert main([*words, "--max-model-len", "8192"]) == 0
        return float(json.loads(capsys.readouterr().out)["weight_bytes"])

    alone = weights()
    spread = weights("--data-parallel-size", "4", "--enable-expert-parallel")
    experts = 48 * 128 * 3 * 2048 * 768 * 2
    assert alone - spread == pytest.approx(experts * 3 / 4, rel=0.01)
    assert weights("--speculative-config", '{"method": "eagle"}') > alone
