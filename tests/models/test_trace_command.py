"""``servesim trace`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servesim.cli.main import main


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "meta-llama/Llama-3.1-8B", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["model"] == "meta-llama/Llama-3.1-8B"
    assert shown["parameters"] == 8_030_261_248
    assert shown["weight_bytes"] == 2 * shown["parameters"]
    assert shown["flops_per_token"] == pytest.approx(2 * shown["active_parameters"], rel=1e-3)
    assert shown["kv_bytes_per_token"] == 32 * 4096
    assert shown["layers"] == 32
    by_name = {row["name"]: row for row in shown["operators"]}
    assert by_name["qkv_proj"] == {
        "name": "qkv_proj",
        "kind": "gemm",
        "count": 32,
        "flops": 2 * 6144 * 4096,
        "bytes": 2 * (6144 * 4096 + 4096 + 6144),
        "shape": [6144, 4096],
    }
    assert shown["unmatched"] == []


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trace", "deepseek-ai/DeepSeek-V3", "--tensor-parallel-size", "8"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for words in ("671 G", "one of 8 ranks", "layers 3-60, 58 x", "q_absorb", "experts"):
        assert words in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meta-llama/Llama-3.1-8"], "did you mean"),
        (["nowhere/config.json"], "does not exist"),
        ([], "which model?"),
        (["gpt2", "--all"], "not both"),
        (["--all", "--fx", "x.txt"], "leave --all out"),
        (["--report", "x.csv"], "--report needs --all"),
        (["openai-community/gpt2", "--fx", "no/such/folder/x.txt"], "no such folder"),
        (["--all", "--report", "no/such/folder/x.csv"], "no such folder"),
        (["openai-community/gpt2", "--tensor-parallel-size", "0"], "at least 1"),
        (["openai-community/gpt2", "--tensor-parallel-size", "5"], "12 do not divide among 5"),
        (["openai-community/gpt2", "--dtype", "bf61"], "unknown dtype"),
        (["openai-community/gpt2", "--jsn"], "did you mean --json?"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert main(["trace", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert shown["parameters"] == 2 * layer + 2 * 100 * 64 + 64


def test_quantised_weights_count_as_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FP8 in blocks of 128 x 128, a 4-byte scale each; embedding, head and norms stay 16-bit."""
    values = {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "vocab_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert main(["trace", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    matrices = 2 * (256 * (256 + 2 * 128) + 256 * 256 + 3 * 256 * 512)
    rest = 2 * 100 * 256 + 5 * 256
    assert shown["weight_bytes"] == matrices + matrices // 128**2 * 4 + 2 * rest


def test_recorded_graph_as_torch_fx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "graph.txt"
    assert main(["trace", "HuggingFaceTB/SmolLM2-135M", "--json", "--fx", str(file)]) == 0
    written = file.read_text()
    assert written.startswith("graph():")
    assert "torch.ops.aten.silu.default" in written
    assert json.loads(capsys.readouterr().out)["layers"] == 30
