"""Calibration: from tables to device files, written whole or in part; what others would lend."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from servesim.cli.main import main
from servesim.errors import InputError
from servesim.graph.work import GemmWork
from servesim.hardware.calibrate.judge import lent_errors
from servesim.hardware.calibrate.row import Row
from servesim.hardware.calibrate.write import calibration_text, replace_calibration
from servesim.hardware.load import DEVICES, load_device


def test_writing_replaces_only_the_fitted_tables(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text('title = "toy"\n\n[calibration.collective]\nsizes = [1, 2]\n')
    tables = {"memory.norm": {"source": "here", "launch": 1.23456e-6, "rows": [1.0, 2.5]}}
    text = calibration_text(tables, {"date": "2026-01-01"})
    replace_calibration(path, text)
    once = path.read_text()
    replace_calibration(path, text)
    assert path.read_text() == once
    parsed = tomllib.loads(once)
    assert parsed["calibration"]["collective"] == {"sizes": [1, 2]}
    replace_calibration(path, text, "[calibration.collective]\nsizes = [3]\n")
    assert tomllib.loads(path.read_text())["calibration"]["collective"] == {"sizes": [3]}
    norm = parsed["calibration"]["memory"]["norm"]
    assert math.isclose(norm["launch"], 1.2346e-6)
    assert norm["rows"] == [1, 2.5]


def test_one_command_makes_a_device_file_and_a_part_of_it_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = tmp_path / "engine-1"
    tables.mkdir()
    lines = [
        f"bfloat16,{tokens},{hidden},1024,2,8,1,1,uniform,{0.1 + tokens * hidden / 1e7}"
        for tokens in (2**i for i in range(11))
        for hidden in (1024, 2048, 4096, 8192)
    ]
    columns = "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size"
    head = f"{columns},distribution,latency\n"
    (tables / "moe_perf.csv").write_text(head + "\n".join(lines))
    samples = [("half", "all_reduce", 2, 2**i, 1e-2 + 2**i / 1e8) for i in range(8, 30)]
    names = ["nccl_dtype", "op_name", "num_gpus", "message_size", "latency"]
    pd.DataFrame(samples, columns=names).to_parquet(tables / "nccl_perf.parquet")
    out = tmp_path / "mine.toml"
    out.write_text((DEVICES / "h100_nvl.toml").read_text().split("[calibration]")[0])
    command = ["calibrate", "--device", str(out), "--data", str(tmp_path), "--out", str(out)]
    assert main(command) == 0
    whole = load_device(str(out)).calibration
    assert set(whole) == {"date", "held_out", "moe", "collective"}
    of_its_only_form = whole["moe"]["bf16"]["held_out"]
    assert whole["held_out"]["moe"] == pytest.approx(of_its_only_form, abs=1e-3)
    assert set(whole["held_out"]) == {"moe", "collective"}
    assert whole["collective"]["all_reduce"]["latency"]["2"] == pytest.approx(1e-5, rel=0.1)
    borrow = 'borrow = {gemm = "h100_sxm", other = "a100_sxm"}'
    out.write_text(out.read_text().replace("[calibration]", f"[calibration]\n{borrow}"))
    assert main([*command, "--only", "collective", "--source", "again"]) == 0
    part = load_device(str(out)).calibration
    assert part["collective"]["source"] == "again"
    assert part["moe"] == whole["moe"]
    assert part["borrow"] == {"gemm": "h100_sxm", "other": "a100_sxm"}
    assert part["held_out"] == whole["held_out"]


def test_the_command_says_in_one_line_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--device", "h100_sxm", "--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no kernel tables" in error
    assert error.count("\n") == 1


def test_what_others_lend_is_judged_on_all_rows_of_a_device(tmp_path: Path) -> None:
    tables = tmp_path / "engine-1"
    tables.mkdir()
    sheet = load_device("h100_sxm")
    lines = []
    for m in (8, 64, 512):
        seconds = sheet.cost_model.cost(GemmWork(m, 4096, 4096)).seconds - 2.4e-6
        lines.append(f"bfloat16,{m},4096,4096,{seconds * 1e3}")
    (tables / "gemm_perf.csv").write_text("gemm_dtype,m,n,k,latency\n" + "\n".join(lines))
    out = tmp_path / "lent.csv"
    command = ["calibrate", "--device", "h100_sxm", "--data", str(tmp_path), "--lent", str(out)]
    assert main([*command, "--only", "gemm"]) == 2
    assert not out.exists()  # what a fit is told is refused, not ignored
    assert main(command) == 0
    head, *found = out.read_text().splitlines()
    assert head == "lender,family,kernels,median,p90,bias"
    lenders = [line.split(",")[0] for line in found]
    assert lenders == ["a100_sxm", "b200_sxm", "h200_sxm", "rtx_a6000", "rtx_pro_6000"]
    for line in found:
        _, family, kernels, median, p90, bias = line.split(",")
        assert (family, kernels) == ("gemm", "3")
        assert 0 < float(median) <= float(p90) < 1
        assert abs(float(bias)) <= float(p90)


def test_a_device_that_nobody_is_like_can_borrow_of_none(tmp_path: Path) -> None:
    row = Row(GemmWork(8, 4096, 4096), 1e-5, "gemm.bf16", "4096x4096")
    with pytest.raises(InputError, match="no other tpu"):
        lent_errors(load_device("tpu_v6e"), {"gemm.bf16": [row]}, [load_device("h100_sxm")])
    with pytest.raises(InputError, match="l4 has no form"):
        lent_errors(load_device("l4"), {"gemm.bf16": [row]}, [load_device("h100_sxm")])
