"""``servesim profile``: from this machine's kernels to a device that simulates."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim import simulate
from servesim.cli.main import main
from servesim.hardware.load import load_device

pytest.importorskip("torch")
pytest.importorskip("scipy")

MODEL = "Qwen/Qwen3-0.6B"
SIZES = ["--max-num-batched-tokens", "4", "--max-num-seqs", "2", "--max-model-len", "64"]


def asked(out: Path, *more: str) -> list[str]:
    return ["profile", "--device", "cpu", "--out", str(out), "--model", MODEL, *SIZES, *more]


def test_a_device_file_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    assert main(asked(tmp_path, "--only", "norm,pointwise", "--seconds", "30")) == 0
    shown = capsys.readouterr().out
    for word in ("GFLOP/s", "median noise", "sum of its kind", "not held out", "device.toml"):
        assert word in shown
    device = load_device(str(tmp_path / "device.toml"))
    assert set(device.measured) == {"memory"}
    got = simulate(
        model=MODEL,
        hardware=str(tmp_path / "device.toml"),
        engine={"num_gpu_blocks_override": 40, "max_model_len": 256},
        workload={"num_requests": 2, "rate": 1.0, "prompt_tokens": 20, "output_tokens": 3},
    )
    assert got.metrics.finished == 2
    # What is there is not measured again: the same command only adds what is missing.
    lines = (tmp_path / "kernels.jsonl").read_text(encoding="utf-8").splitlines()
    assert main(asked(tmp_path, "--only", "norm", "--seconds", "30")) == 0
    again = (tmp_path / "kernels.jsonl").read_text(encoding="utf-8").splitlines()
    assert again[: len(lines)] == lines


def test_a_plan_touches_no_device_and_names_what_is_too_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_for = ["profile", "--device", "cuda", "--model", MODEL, "--out", str(tmp_path / "none")]
    more = ["--plan", "--ranks", "2", "--seconds", "1", "--max-weight-mb", "100"]
    assert main([*asked_for, *more]) == 0
    shown = capsys.readouterr().out
    for text in ("attention", "collective", "every second size left out"):
        assert text in shown
    assert "not measured: lm_head (bf16 151936x1024; 1 kernels): weights exceed 100 MB" in shown
    assert not (tmp_path / "none").exists()


def test_a_check_says_how_far_off_a_file_is_and_what_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    assert main(asked(tmp_path, "--only", "norm", "--seconds", "30")) == 0
    capsys.readouterr()
    assert main(asked(tmp_path, "--only", "norm", "--check", "4")) == 0
    shown = capsys.readouterr().out
    assert "device file, today        4" in shown
    assert "not comparable" not in shown
    path = tmp_path / "device.toml"
    text = path.read_text(encoding="utf-8").replace(
        "torch kernels, torch ", "torch kernels, torch 0"
    )
    path.write_text(text.replace('title = "', 'title = "another '), encoding="utf-8")
    assert main(asked(tmp_path, "--only", "norm", "--check", "4")) == 0
    shown = capsys.readouterr().out
    assert "not comparable as such: the machine was 'another " in shown
    assert "the software was 'torch kernels, torch 0" in shown
    assert main(asked(tmp_path, "--only", "gemm", "--check")) == 2
    assert "knows no kernel of these models" in capsys.readouterr().err


def test_a_check_measures_collectives_too_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servesim.hardware.measure.rounds._ROUND_S", 1e-4)
    sizes = {"cpu": (1024, 4096)}
    monkeypatch.setattr("servesim.hardware.measure.collectives.SIZES", sizes)
    ranks = ("--only", "norm,collective", "--ranks", "2", "--seconds", "30")
    assert main(asked(tmp_path, *ranks)) == 0
    capsys.readouterr()
    assert main(asked(tmp_path, "--only", "collective", *ranks[2:], "--check", "3")) == 0
    shown = capsys.readouterr().out
    assert "device file, today        3" in shown
    assert " of 2, " in shown


def test_a_plan_needs_no_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for kernels in ("torch", "vllm"):
        command = ("profile", "--device", "cpu", "--model", MODEL, *SIZES, "--plan")
        assert main([*command, "--kernels", kernels]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--only", "norn"), "did you mean 'norm'"),
        (("--kernels", "torchh"), "did you mean 'torch'"),
        (("--threads", "100000"), "--threads must be 1 to "),
        (("--threads", "0"), "--threads: must be a whole number, at least 1, not '0'"),
        (("--seconds", "nan"), "--seconds: must be a number above 0, not 'nan'"),
        (("--seconds", "-1"), "--seconds: must be a number above 0, not '-1'"),
        (("--max-model-len", "0"), "--max-model-len: must be a whole number, at least 16"),
        (("--max-num-seqs", "x"), "--max-num-seqs: must be a whole number, at least 1, not 'x'"),
        (("--check", "0"), "--check: must be a whole number, at least 1, not '0'"),
        (("--ranks", "1"), "--ranks: must be a whole number, at least 2, not '1'"),
        (("--ranks", "2,100000"), "--ranks 100000: there are only "),
        (
            ("--only", "gemm", "--ranks", "2"),
            "--ranks is for collectives",
        ),
        (("--only", "collective"), "nothing to measure"),
        (("--max-weight-mb", "inf"), "--max-weight-mb: must be a number above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    more: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(tmp_path, *more)) == 2
    assert complaint in capsys.readouterr().err
