"""Calibration: reading tables, fitting, holding out, writing."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from servesim.cli.main import main
from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork
from servesim.hardware.calibrate.expected import rank_load
from servesim.hardware.calibrate.expert_tables import moe_rows
from servesim.hardware.calibrate.fit import Fit, fit, scaled
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.judge import lent_errors
from servesim.hardware.calibrate.kernel_tables import kernel_rows, recurrent_rows
from servesim.hardware.calibrate.layer_tables import layer_rows
from servesim.hardware.calibrate.problems import built_form, problem
from servesim.hardware.calibrate.row import Row, held_out, resident_share
from servesim.hardware.calibrate.run import calibrate
from servesim.hardware.calibrate.surfaces import with_surfaces
from servesim.hardware.calibrate.write import calibration_text, replace_calibration
from servesim.hardware.cost import GRAPH_GAP_S
from servesim.hardware.device import Device, MemoryTier
from servesim.hardware.forms.gemm import GemmForm
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.memory import MemoryForm
from servesim.hardware.forms.moe import MoeForm
from servesim.hardware.load import DEVICES, load_device

DEVICE = Device(
    name="toy",
    kind="gpu",
    peak_flops={"bf16": 100e12},
    memory=MemoryTier("HBM", 1e10, 1e12),
    cache=MemoryTier("L2", 1e7, 4e12),
    cores=100,
)
MACHINE = Machine(100e12, 1e12, 1e7, 100)
TRUE = MemoryForm(launch=3e-6, row=1e-8, traffic=1.0, cache=4.0, held=0.5, memory=0.8)
SIZES = [2**i for i in range(14)]


def norm_rows(origin: str = "serving", factor: float = 1.0) -> list[Row]:
    works = [MemoryWork("norm", m, m * w, m * w) for m in SIZES for w in (2e3, 8e3, 3e4)]
    return [
        Row(w, factor * TRUE.seconds(w, MACHINE), "memory.norm", "", origin, regime=origin)
        for w in works
    ]


def test_a_fit_predicts_what_it_was_fitted_on() -> None:
    asked = problem("memory.norm", lambda _: MACHINE)
    found = fit(asked, norm_rows())
    for row in norm_rows():
        assert asked.seconds(found.coefficients, row) == pytest.approx(row.seconds, rel=0.05)


def test_a_slower_table_is_told_from_the_serving_one() -> None:
    rows = norm_rows() + norm_rows("old software", factor=1.1)
    found = fit(problem("memory.norm", lambda _: MACHINE), rows)
    factor, offset = found.origins["old software"]
    assert factor == pytest.approx(1.1, rel=0.02)
    assert offset == pytest.approx(0.0, abs=0.1e-6)
    back = scaled(rows[-1:], found.origins)[0]
    assert back.seconds == pytest.approx(rows[len(rows) // 2 - 1].seconds, rel=0.02)


def test_a_table_that_leaves_out_a_part_of_every_launch_is_told_too() -> None:
    bare = [replace(r, seconds=r.seconds - 1e-6) for r in norm_rows("benchmark")]
    found = fit(problem("memory.norm", lambda _: MACHINE), norm_rows() + bare)
    assert found.origins["benchmark"].offset == pytest.approx(-1e-6, rel=0.1)
    assert scaled(bare[:1], found.origins)[0].seconds == pytest.approx(norm_rows()[0].seconds, 0.05)


def test_fits_are_repeatable() -> None:
    asked = problem("memory.norm", lambda _: MACHINE)
    assert fit(asked, norm_rows()) == fit(asked, norm_rows())


def test_whole_shapes_are_held_out_and_about_a_fifth_of_them() -> None:
    shapes = [f"{n}x{k}" for n in range(50) for k in range(50)]
    kept = sum(map(held_out, shapes)) / len(shapes)
    assert 0.17 < kept < 0.23
    assert not held_out("")


def test_benchmarks_find_in_cache_what_fits_it() -> None:
    assert resident_share(1e6, 1e8) > 0.99
    assert resident_share(1e9, 1e8) < 0.01
    assert resident_share(1.0, 0.0) == 0.0


def test_loads_of_the_benchmarked_rank() -> None:
    assert rank_load(4, 128, 8, 1, "balanced") == (32, 32)
    assert rank_load(4, 128, 8, 2, "balanced") == (16, 16)
    assert rank_load(1, 128, 8, 32, "balanced") == (1, 1)  # a quarter on average, yet the first
    assert rank_load(1, 128, 8, 2) == pytest.approx((4.0, 4.0))
    assert rank_load(10_000, 8, 2, 1, "power_law_1.2") == (20_000, 8)
    assert rank_load(64, 256, 8, 1, "power_law_1.2").touched < 225
    assert rank_load(64, 256, 8, 8, "power_law_1.2").pairs > 1.2 * 64  # the busiest of eight


def test_a_power_law_deals_no_expert_more_tokens_than_there_are() -> None:
    load = rank_load(3, 16, 4, 16, "power_law_1.2")
    assert load.touched == 1
    assert load.pairs <= 3


def expert_rows(factor: Callable[[MoeWork], float]) -> list[Row]:
    """Experts as a library with tiles of 64 rows runs them, times ``factor``."""
    form = MoeForm(2e-5, 1e-8, 0.8, 0.5, 20.0, 1e-8, 6.0, tiling="fixed_64")
    works = [
        MoeWork(2**t, 8.0 * 2**t, min(8.0 * 2**t, 64), 64, 8, hidden, width)
        for t in range(11)
        for hidden in range(1024, 8192, 1024)
        for width in range(512, 2048, 256)
    ]
    return [
        Row(w, factor(w) * form.seconds(w, MACHINE), "moe.bf16", f"{w.hidden}x{w.intermediate}")
        for w in works
    ]


def test_the_tiles_that_experts_ran_in_are_found() -> None:
    rows = expert_rows(lambda _: 1.0)
    asked = problem("moe.bf16", lambda _: MACHINE)
    found = fit(asked, rows)
    assert found.coefficients["tiling"] == "fixed_64"
    for row in rows:
        assert asked.seconds(found.coefficients, row) == pytest.approx(row.seconds, rel=0.02)


def test_surfaces_take_the_bias_out_of_what_a_form_leaves() -> None:
    rows = expert_rows(lambda work: work.tokens**-0.05)
    asked = problem("moe.bf16", lambda _: MACHINE)
    fitted = fit(asked, rows)
    found = with_surfaces(asked, fitted, rows)

    def errors(of: Fit) -> list[float]:
        return sorted(asked.seconds(of.coefficients, row) / row.seconds - 1 for row in rows)

    assert errors(found)[len(rows) // 2] == pytest.approx(0.0, abs=0.002)
    assert sum(map(abs, errors(found))) < 0.5 * sum(map(abs, errors(fitted)))
    assert isinstance(built_form("moe.bf16", found.coefficients), MoeForm)


def test_convolutions_of_a_benchmark_that_gave_all_models_equal_channels_are_left_out() -> None:
    def update(values: int, batch: int, latency: float) -> dict[str, Any]:
        sizes = {"num_k_heads": 16, "num_v_heads": values, "head_k_dim": 128, "head_v_dim": 128}
        run = {"phase": "generation", "batch_size": batch, "num_tokens": batch, "d_conv": 4}
        return {"kernel_source": "causal_conv1d_update", "latency": latency, **sizes, **run}

    honest = [update(16, 1, 2e-3), update(64, 1, 2e-3), update(16, 64, 4e-3), update(64, 64, 7e-3)]
    assert len(recurrent_rows(honest, "table", 0.0)) == 4
    equal = [*honest[:3], update(64, 64, 4e-3)]
    scan = update(16, 4, 3e-3) | {"phase": "context"}
    assert [row.regime for row in recurrent_rows([*equal, scan], "table", 0.0)] == ["prefill"]


def test_experts_of_a_benchmark_that_ran_all_of_them_on_every_rank_count_unsharded_only() -> None:
    def experts(dtype: str, ranks: int, latency: float) -> dict[str, Any]:
        sizes = {"hidden_size": 4096, "inter_size": 1024, "topk": 4, "num_experts": 32}
        run = {"num_tokens": 4096, "moe_tp_size": 1, "moe_ep_size": ranks}
        return {"moe_dtype": dtype, "distribution": "balanced", "latency": latency, **sizes, **run}

    sharded = [experts("bfloat16", 1, 8.0), experts("bfloat16", 4, 2.2)]
    whole = [experts("w4a16_mxfp4", 1, 3.0), experts("w4a16_mxfp4", 4, 3.0)]
    rows = moe_rows([*sharded, *whole], "table")
    assert [(row.form, row.ranks) for row in rows] == [
        ("moe.bf16", 1),
        ("moe.bf16", 4),
        ("moe.mxfp4", 1),
    ]


@pytest.mark.parametrize(
    ("kernel", "dtype", "version", "tiling"),
    [
        ("vllm_fused_moe", "fp8", "0.19.0", "triton"),
        ("vllm_fused_moe", "bfloat16", "0.14.0", "triton_early"),
        ("vllm_fused_moe", "fp8_block", "0.19.0", "triton_block"),
        ("vllm_marlin_int4_moe", "int4_wo", "0.19.0", "marlin"),
        ("vllm_flashinfer_trtllm_moe_fp4", "nvfp4", "0.19.0", "trtllm"),
        ("vllm_flashinfer_cutlass_flashinferexperts", "bfloat16", "0.24.0", ""),
    ],
)
def test_names_of_kernels_tell_what_chose_their_tiles(
    kernel: str, dtype: str, version: str, tiling: str
) -> None:
    sizes = {"hidden_size": 4096, "inter_size": 1024, "topk": 4, "num_experts": 32}
    run = {"num_tokens": 64, "moe_tp_size": 1, "moe_ep_size": 1, "distribution": "balanced"}
    row = {"moe_dtype": dtype, "kernel_source": kernel, "latency": 1.0, **sizes, **run}
    assert [r.tiling for r in moe_rows([row], f"vllm-{version}")] == [tiling]


def test_experts_that_stay_in_a_cache_are_marked_and_those_that_do_in_part_left_out() -> None:
    sizes = {"hidden_size": 4096, "inter_size": 1024, "topk": 1, "num_experts": 64}
    run = {"moe_tp_size": 1, "moe_ep_size": 1, "distribution": "balanced", "latency": 1.0}
    table = [{"moe_dtype": "bfloat16", "num_tokens": t, **sizes, **run} for t in (1, 4, 64)]
    expert = 3 * 4096 * 1024 * 2
    rows = moe_rows(table, "table", cache_bytes=4 * expert / 0.9)
    assert [row.resident for row in rows] == pytest.approx([1.0, 0.5, 0.0], abs=1e-3)
    assert [row.regime for row in rows] == ["serving", "weights partly in cache", "serving"]


def test_kernels_faster_than_the_device_are_not_believed() -> None:
    work = AttentionWork(((4096, 0),), 0, 0, 0, 32, 8, 128, 128)
    impossible = work.flops / 1e15
    rows = [Row(work, impossible, "prefill.bf16_128", f"s{i}") for i in range(100)]
    with pytest.raises(InputError, match="faster than the device's peaks"):
        calibrate(DEVICE, rows)


def test_kernel_tables_give_rows_by_form(tmp_path: Path) -> None:
    folder = tmp_path / "vllm-9"
    folder.mkdir()
    (folder / "gemm_perf.csv").write_text(
        "gemm_dtype,m,n,k,latency\nbfloat16,8,4096,4096,0.03\nbfloat16,8,4096,4096,0.05\n"
        "fp8_block,8,4096,4096,0.02\n"
    )
    (folder / "generation_attention_perf.csv").write_text(
        "batch_size,step,num_heads,num_key_value_heads,head_dim,kv_cache_dtype,window_size,latency\n"
        "4,99,32,8,128,bfloat16,0,0.01\n4,99,32,8,128,bfloat16,64,0.008\n"
    )
    rows = {row.form: row for row in kernel_rows(tmp_path, 1e6)}
    assert set(rows) == {"gemm.bf16", "gemm.fp8_block", "decode.bf16_128"}
    assert rows["gemm.bf16"].seconds == pytest.approx(40e-6)  # the median
    assert rows["gemm.bf16"].origin == "vllm-9"
    decode = rows["decode.bf16_128"].work
    assert isinstance(decode, AttentionWork)
    assert decode.decode_keys == 4 * 64  # the windowed row came last: 64 of 100 keys


def test_missing_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "gemm_perf.csv").write_text("m,n,latency\n1,2,3\n")
    with pytest.raises(InputError, match="gemm_dtype"):
        kernel_rows(tmp_path, 1e6)


def test_layer_tables_give_sharded_work_and_skewed_batches(tmp_path: Path) -> None:
    (tmp_path / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,8,20\nlayernorm,8,2\n")
    (tmp_path / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,4,100\n")
    (tmp_path / "attention.csv").write_text(
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,4,100,12\n64,0,4,100,15\n"
    )
    (tmp_path / "skew.csv").write_text("n,nb,pc,kp,kvs,kv_big,t_skew_us\n4,1,0,0,100,400,60\n")
    geometry = Geometry(4096, 14336, 32, 8, 128, 128256)
    rows = layer_rows(tmp_path, "org/model", geometry, 2)
    by_regime = {row.regime: row for row in rows}
    qkv = next(row.work for row in rows if row.shape == "3072x4096")
    assert qkv.flops == 2 * 8 * 3072 * 4096
    uneven = by_regime["decode, unequal"]
    assert isinstance(uneven.work, AttentionWork)
    assert uneven.work.decode_keys == 401 + 3 * 101
    assert uneven.work.heads == 16
    # The file sums three launches, without the gap to the next kernel.
    assert uneven.seconds == pytest.approx(20e-6 + GRAPH_GAP_S)
    assert not [row for row in rows if row.form == "memory.norm"]  # a mean of two kernels
    assert by_regime["mixed"].form == "prefill.bf16_128"


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


def test_excluded_models_are_what_errors_are_reported_on() -> None:
    rows = [replace(r, model="a") for r in norm_rows()]
    rows += [replace(r, model="b", seconds=r.seconds * 1.2) for r in norm_rows()]
    (result,) = calibrate(DEVICE, rows, exclude_models={"b"})
    assert result.total is not None
    assert result.total.kernels == len(norm_rows())
    assert result.total.bias == pytest.approx(1 / 1.2 - 1, abs=0.02)


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


def test_benchmarks_of_single_products_are_brought_to_the_scale_of_serving() -> None:
    form = GemmForm(2e-6, 0.8, 0.8, 1e-7, 0.5, 1e-6, 4.0)
    works = [GemmWork(m, n, 4096) for m in (1, 16, 64, 256, 1024) for n in range(1024, 12289, 1024)]
    rows = [
        Row(w, form.seconds(w, MACHINE), "gemm.bf16", f"{w.n}", "benchmark", regime="all")
        for w in works
    ]
    (result,) = calibrate(DEVICE, rows)
    (scale,) = result.fitted.origins.values()
    assert scale.factor == 1.0
    assert scale.offset < 0
    predict = problem("gemm.bf16", lambda _: MACHINE).seconds
    found = predict(result.fitted.coefficients, rows[0])
    assert found == pytest.approx(rows[0].seconds - scale.offset, rel=0.1)


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
