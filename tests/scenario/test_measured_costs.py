"""Scenarios with measured kernels and collectives: tables where they reach, no jump beyond."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servesim import Scenario, simulate
from servesim.cli.main import main
from servesim.errors import InputError
from servesim.graph.batch import BatchShape
from servesim.hardware.cost import Source
from servesim.scenario import build
from servesim.scenario.summary import summarise

OPS = Path(__file__).parents[3] / "shared" / "ops" / "h100_sxm"
MODEL, LAYERS, HIDDEN = "Qwen/Qwen3-0.6B", 28, 1024
WORKLOAD = {"rate": 2.0, "num_requests": 3, "prompt_tokens": 20, "output_tokens": 10}


def step_model(tensor_parallel_size: int = 1, **hardware: Any) -> Any:
    scenario = Scenario.of(
        model=MODEL,
        hardware={"device": "h100_sxm", **hardware},
        engine={"tensor_parallel_size": tensor_parallel_size, "enforce_eager": True},
    )
    return build(scenario).served[0].step_model


def decodes(count: int) -> BatchShape:
    return BatchShape.of_tokens(count)


def gemm_table(folder: Path, milliseconds: float) -> Path:
    """AIConfigurator's table of one product: Qwen3-0.6B's QKV projection, up to 256 rows."""
    rows = [f"bfloat16,{m},4096,{HIDDEN},{milliseconds}" for m in (1, 16, 256)]
    folder.mkdir()
    (folder / "gemm_perf.csv").write_text("\n".join(["gemm_dtype,m,n,k,latency", *rows]) + "\n")
    return folder


def all_reduce(path: Path, microseconds: float) -> Path:
    lines = [f"#  Rank  {rank} Group  0 Pid 1 on host device  {rank} X" for rank in range(2)]
    lines += [f"{size} {size // 2} half sum -1 {microseconds} 0 0 0" for size in (1024, 2**20)]
    head, end = "# Collective test starting: all_reduce_perf", "# Avg bus bandwidth : 1"
    path.write_text("\n".join([head, *lines, end]))
    return path


def test_kernel_tables_count_where_they_reach(tmp_path: Path) -> None:
    plain = step_model()
    slow = step_model(profile=gemm_table(tmp_path / "slow", 1.0))
    slower = step_model(profile=gemm_table(tmp_path / "slower", 3.0))
    batch = decodes(8)
    # Every layer has the product once; nothing else changes.
    assert slower.seconds(batch) - slow.seconds(batch) == pytest.approx(LAYERS * 2e-3)
    assert slow.seconds(batch) > plain.seconds(batch) + LAYERS * 0.9e-3
    assert slow.source_seconds()[Source.MEASURED] >= LAYERS * 1e-3
    # No jump at the last measured size: a row more takes what it adds to rounds of tiles.
    inside, beyond = slow.seconds(decodes(256)), slow.seconds(decodes(257))
    assert inside <= beyond <= 1.08 * inside
    assert slow.seconds(decodes(2048)) > 2 * inside


def test_collectives_count_where_they_reach(tmp_path: Path) -> None:
    slow = step_model(2, collectives=all_reduce(tmp_path / "slow.txt", 500.0))
    slower = step_model(2, collectives=all_reduce(tmp_path / "slower.txt", 1500.0))
    batch = decodes(8)
    # Two all-reduces a layer, and one after the embedding.
    gap = slower.seconds(batch) - slow.seconds(batch)
    assert gap == pytest.approx((2 * LAYERS + 1) * 1e-3, rel=0.02)
    linked = step_model(
        2,
        collectives=tmp_path / "slow.txt",
        link={"bandwidth": 50e9, "latency": 5e-6},
    )
    assert linked.seconds(batch) == pytest.approx(slow.seconds(batch), rel=0.02)


def test_results_and_flags_name_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile, table = gemm_table(tmp_path / "gemm", 1.0), all_reduce(tmp_path / "all_reduce", 500.0)
    flags = ["--model", MODEL, "--hardware", "h100_sxm", "--tensor-parallel-size", "2"]
    flags += ["--num-requests", "2", "--output-tokens", "4", "--output-dir", str(tmp_path / "out")]
    flags += ["--profile", str(profile), "--collectives", str(table)]
    assert main(["simulate", *flags]) == 0
    shown = capsys.readouterr().out
    assert "collectives" in shown
    found = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert found["instances"][0]["hardware"]["collectives"] == str(table)
    plain = summarise(simulate(model=MODEL, hardware="h100_sxm", workload=WORKLOAD))
    assert "collectives" not in plain["instances"][0]["hardware"]


def test_times_in_another_unit_are_refused(tmp_path: Path) -> None:
    gemm_table(tmp_path / "gemm", 1e-5)  # 10 ns for 256 rows
    with pytest.raises(InputError, match=r"qkv_proj of \d+ tokens takes .* unit of the times"):
        step_model(profile=tmp_path / "gemm")


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    table = all_reduce(tmp_path / "all_reduce.txt", 500.0)
    with pytest.raises(InputError, match="collectives and topology"):
        step_model(2, collectives=table, topology={"devices": 2})
    with pytest.raises(InputError, match="profile_model: there is no profile"):
        step_model(profile_model="org/model")
    with pytest.raises(InputError, match=r"no layer profile .* and no kernel tables"):
        step_model(profile=tmp_path)
    gemm_table(tmp_path / "both", 1.0)
    (tmp_path / "both" / "mlp.csv").write_text("")
    with pytest.raises(InputError, match="layer latencies and kernel tables below; name"):
        step_model(profile=tmp_path / "both")
    with pytest.raises(InputError, match="no such file or folder"):
        step_model(2, collectives=tmp_path / "gone")


@pytest.mark.skipif(not OPS.is_dir(), reason=f"no kernel tables in {OPS}")
def test_tables_of_a_real_device_agree_with_its_calibrated_forms(tmp_path: Path) -> None:
    """Both rest on the same kernels; what is left is the fit's error and other shapes' share."""
    for name in ("gemm", "context_attention"):  # half of the rows, read in half of the time
        (tmp_path / f"{name}_perf.parquet").symlink_to(
            next(OPS.glob(f"vllm-*/{name}_perf.parquet"))
        )
    calibrated = step_model(2)
    measured = step_model(2, profile=tmp_path, collectives=OPS)
    for count in (1, 32, 512, 4096):
        batch = decodes(count)
        assert measured.seconds(batch) == pytest.approx(calibrated.seconds(batch), rel=0.3)
    spent = measured.source_seconds()
    assert spent[Source.MEASURED] > 0.3 * sum(spent.values())
