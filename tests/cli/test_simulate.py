"""``servesim simulate`` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from servesim.cli.main import main

MODEL = ("--model", "Qwen/Qwen3-0.6B", "--hardware", "h100_sxm")
LINE = '{"arrival_s": 0.5, "prompt_tokens": 40, "output_tokens": 5}\n'


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def simulate(*words: str) -> int:
    return main(["simulate", *words])


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(*MODEL, "--num-requests", "5", "--rate", "20") == 0
    out = capsys.readouterr().out
    for expected in (
        "Qwen/Qwen3-0.6B, bf16",
        "28 layers",
        "qkv_proj",
        "112 KiB a token",
        "NVIDIA H100",
        "TTFT ms",
        "5 finished, 0 rejected",
        "cost basis",
        "out/qwen3-0.6b/",
    ):
        assert expected in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    files = sorted(path.name for path in Path("out/qwen3-0.6b").iterdir())
    assert files == ["requests.csv", "steps.csv", "summary.json"]


def test_json_is_the_summary_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(*MODEL, "--num-requests", "3", "--json", "--output-dir", "here") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("wall_s") > 0
    assert printed == json.loads(Path("here/summary.json").read_text())
    assert printed["requests"]["finished"] == 3


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(*MODEL, "--num-requests", "3", "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_a_file_with_flags_over_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.toml").write_text(
        '[model]\nid = "Qwen/Qwen3-0.6B"\n[hardware]\ndevice = "h100_sxm"\n'
        '[engine]\nmax_num_seqs = 4\n[workload]\nkind = "burst"\nnum_requests = 9\n'
    )
    flags = ("--num-requests", "2", "--set", "workload.interval_s=2", "--no-enable-prefix-caching")
    assert simulate("one.toml", "--json", *flags) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["workload"] == {"kind": "burst", "num_requests": 2, "interval_s": 2.0}
    assert summary["instances"][0]["engine"]["max_num_seqs"] == 4
    assert summary["instances"][0]["engine"]["enable_prefix_caching"] is False


def test_a_jsonl_file_is_a_workload(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.jsonl").write_text(LINE)
    assert simulate(*MODEL, "--workload", "t.jsonl", "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"]["total"] == 1


def test_plugins_beside_the_user_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_traffic.py").write_text(
        "from dataclasses import dataclass\n"
        "from servesim.runtime.request import RequestSpec\n"
        "from servesim.runtime.source import OpenSource\n"
        "@dataclass(frozen=True)\n"
        "class Pair:\n"
        "    gap_s: float = 1.0\n"
        "    def source(self):\n"
        "        return OpenSource(RequestSpec(i, i * self.gap_s, 10, 10) for i in range(2))\n"
        "class NoOptions:\n"
        "    pass\n"
    )
    flags = ("--workload", "my_traffic:Pair", "--set", "workload.gap_s=7", "--json")
    assert simulate(*MODEL, *flags) == 0
    assert json.loads(capsys.readouterr().out)["makespan_s"] > 7
    assert simulate(*MODEL, "--workload", "my_traffic:NoOptions") == 2
    assert "NoOptions has no options: it must be a dataclass" in capsys.readouterr().err


def test_rejected_requests_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(*MODEL, "--num-requests", "2", "--prompt-tokens", "50000") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "0 finished, 2 rejected" in out
    assert "2 requests rejected; the first because prompt and output are 50128 tokens" in out


BAD: list[tuple[tuple[str, ...], str]] = [
    (("--model", "Qwen/Qwen3-0.66B", "--hardware", "h100"), "did you mean 'Qwen/Qwen3-0.6B'?"),
    (("--model", "Qwen/Qwen3-0.6B", "--hardware", "h1o0"), "unknown device 'h1o0'"),
    ((*MODEL, "--max-num-seq", "3"), "unknown flag --max-num-seq; did you mean --max-num-seqs?"),
    ((*MODEL, "--max-num-seqs", "many"), "--max-num-seqs: must be a whole number"),
    ((*MODEL, "--set", "engine.seqs=3"), "unknown key in [engine] 'seqs'"),
    ((*MODEL, "--set", "seqs"), "'seqs' is not SECTION.KEY=VALUE"),
    (("gone.toml",), "scenario gone.toml: No such file"),
    ((*MODEL, "--workload", __file__), "a file of some other kind than .jsonl: name the kind"),
    (("a.toml", "--scenario", "b.toml"), "two scenario files"),
    ((*MODEL, "--workload", "bursts"), "did you mean 'burst'?"),
    ((*MODEL, "--workload", "gone.jsonl"), "cannot read gone.jsonl"),
    ((*MODEL, "--workload", "text.jsonl"), "text.jsonl:2: not JSON"),
    ((*MODEL, "--workload", "negative.jsonl"), "negative.jsonl:1: prompt_tokens must be at least"),
    ((*MODEL, "--workload", "long.jsonl"), "long.jsonl:1: prompt_tokens 50000 leaves no room"),
    ((*MODEL, "--workload", "empty.jsonl"), "empty.jsonl has no requests"),
    ((*MODEL[:1], "meta-llama/Llama-3.1-405B", *MODEL[2:]), "does not fit: it needs"),
    ((*MODEL, "--output-dir", "text.jsonl/x"), "text.jsonl is not a folder"),
    ((*MODEL, "--report", "."), "cannot write .: it is a folder"),
    ((*MODEL, "--set", "hardware.power=3"), "[hardware] power must be a table, not 3"),
    ((*MODEL, "--report", "x", "--trace", "x"), "two outputs go to x"),
    ((*MODEL, "--set", "slo.ttft_s=-1"), "[slo] ttft_s must be positive, not -1"),
    ((*MODEL, "--prompt-tokens", "lognormal:sigma=1"), "'lognormal' needs mean"),
    ((*MODEL, "--set", "cost.usd_per_kwh=-1"), "[cost] usd_per_kwh must not be negative, not -1"),
    ((*MODEL, "--set", "hardware.power={idle_watts=-1}"), "idle_watts must not be negative, not"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (
        ("text.jsonl", f"{LINE}nonsense\n"),
        ("negative.jsonl", LINE.replace("40", "-40")),
        ("long.jsonl", LINE.replace("40", "50000")),
        ("empty.jsonl", ""),
    ):
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    assert simulate(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("servesim: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulat"]) == 2
    assert "did you mean 'simulate'?" in capsys.readouterr().err


def test_a_folder_in_the_place_of_a_result_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "requests.csv").mkdir(parents=True)
    assert simulate(*MODEL, "--num-requests", "2", "--output-dir", "out", "--quiet") == 2
    assert "cannot write to out: Is a directory" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["requests.csv"]


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "servesim", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("servesim ")


def test_brackets_in_names_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('name = "[bold]a"\n[[instance]]\nname = "[red]gpu"\ncount = 2\n')
    assert simulate("a.toml", *MODEL, "--num-requests", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith("[bold]a ")
    assert "Placement  [red]gpu x 2" in out
    assert "  [red]gpu-1 " in out


def test_concurrency_alone_means_a_closed_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "simulate --model Qwen/Qwen3-0.6B --hardware h100_sxm --concurrency 2 --num-requests 4"
    lengths = "--prompt-tokens 64 --output-tokens 8 --max-model-len 256"
    folder = str(tmp_path / "out")
    assert main([*words.split(), *lengths.split(), "--json", "--output-dir", folder]) == 0
    assert json.loads(capsys.readouterr().out)["workload"]["kind"] == "closed_loop"
