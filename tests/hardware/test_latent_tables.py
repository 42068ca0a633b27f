"""Latent attention from modules: what is taken off, and what is left out."""

import pytest

from servesim.hardware.calibrate.latent_tables import latent_rows
from servesim.hardware.cost import Cost, Source

HEAD = "kernel_source,mla_dtype,kv_cache_dtype,gemm_type,num_heads,batch_size,isl,step,latency\n"


class OnePerKernel:
    """A microsecond a kernel."""

    def cost(self, work):
        return Cost(1e-6, Source.CALIBRATED)


def rows(tmp_path, name, *lines, cache_bytes=0.0):
    folder = tmp_path / "vllm-1"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_perf.csv").write_text(HEAD + "\n".join(lines) + "\n")
    return latent_rows(tmp_path, cache_bytes, OnePerKernel())


def test_a_decode_module_leaves_what_its_nine_other_kernels_do_not_take(tmp_path):
    (row,) = rows(tmp_path, "mla_generation_module", "x,bfloat16,fp8,bfloat16,16,32,1,1023,0.029")
    assert row.seconds == pytest.approx(20e-6)
    assert (row.form, row.origin) == ("decode.fp8_latent", "vllm-1")
    work = row.work
    assert (work.decodes, work.decode_keys, work.decode_keys_max) == (32, 32 * 1024, 1024)
    assert (work.heads, work.head_dim, work.value_dim) == (16, 576, 512)
    assert work.kv_bytes_per_token == 576


def test_a_prefill_module_attends_to_expanded_keys(tmp_path):
    (row,) = rows(tmp_path, "mla_context_module", "x,bfloat16,bfloat16,bfloat16,8,2,512,0,0.048")
    assert row.seconds == pytest.approx(40e-6)  # eight other kernels
    assert row.form == "prefill.bf16_192_expanded"
    assert row.work.prefills == ((512, 0), (512, 0))
    assert (row.work.kv_heads, row.work.value_dim) == (8, 128)


def test_a_module_that_stays_in_the_cache_is_not_one_of_serving(tmp_path):
    line = "x,bfloat16,bfloat16,bfloat16,16,1,1,1023,0.029"
    (row,) = rows(tmp_path, "mla_generation_module", line, cache_bytes=1e9)
    assert row.regime == "weights partly in cache"
    (row,) = rows(tmp_path, "mla_generation_module", line, cache_bytes=1e6)
    assert row.regime == "serving"


def test_modules_that_are_mostly_products_and_other_formats_tell_nothing(tmp_path):
    found = rows(
        tmp_path,
        "mla_generation_module",
        "x,bfloat16,bfloat16,bfloat16,16,32,1,1023,0.012",
        "x,bfloat16,bfloat16,fp8_block,16,32,1,1023,0.100",
    )
    assert found == []


def test_kernels_launched_by_the_host_count_beyond_its_pace_and_undisturbed(tmp_path):
    found = rows(
        tmp_path,
        "generation_mla",
        "x,bfloat16,bfloat16,none,16,1,1,15,0.300",
        "x,bfloat16,bfloat16,none,16,1,1,255,2.300",
        "x,bfloat16,bfloat16,none,16,1,1,1023,0.500",
        "x,bfloat16,bfloat16,none,16,1,1,4095,1.200",
    )
    assert [row.seconds for row in found] == [pytest.approx(1.2e-3)]
