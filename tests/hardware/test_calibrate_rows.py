"""Calibration: what is read of kernel and layer tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from servesim.errors import InputError
from servesim.graph.work import AttentionWork
from servesim.hardware.calibrate.expected import rank_load
from servesim.hardware.calibrate.expert_tables import moe_rows
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.kernel_tables import kernel_rows, recurrent_rows
from servesim.hardware.calibrate.layer_tables import layer_rows
from servesim.hardware.calibrate.row import resident_share
from servesim.hardware.cost import GRAPH_GAP_S


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
