"""Kernel latency tables as a cost model: measured inside, the fallback beyond, no jump between."""

import pytest

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, GemmWork, MoeWork
from servesim.hardware.cost import Cost, Source
from servesim.hardware.tables.kernels import load_kernel_tables

GEMM = """gemm_dtype,m,n,k,latency
bfloat16,1,512,512,0.002
bfloat16,101,512,512,0.012
"""
MOE = """moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,\
distribution,latency
bfloat16,1,64,128,2,8,1,1,uniform,0.01
bfloat16,9,64,128,2,8,1,1,uniform,0.05
"""
ATTENTION = "batch_size,isl,num_heads,num_key_value_heads,head_dim,kv_cache_dtype,step,latency\n"
DECODE = ATTENTION + "".join(
    f"{n},1,4,2,64,bfloat16,{kv},{0.001 * n + 1e-6 * kv}\n" for n in (1, 8) for kv in (16, 128)
)
PREFILL = ATTENTION + "".join(f"1,{n},4,2,64,bfloat16,0,{0.001 * n}\n" for n in (16, 64))


class PerRow:
    """10 µs and 1 µs a row or token."""

    def cost(self, work):
        rows = work.m if isinstance(work, GemmWork) else getattr(work, "tokens", 7)
        return Cost(10e-6 + 1e-6 * rows, Source.CALIBRATED)


@pytest.fixture
def table(tmp_path):
    files = {
        "gemm_perf": GEMM,
        "moe_perf": MOE,
        "generation_attention_perf": DECODE,
        "context_attention_perf": PREFILL,
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return load_kernel_tables(tmp_path, PerRow())


def test_measured_where_the_shape_was(table):
    assert table.cost(GemmWork(51, 512, 512)) == Cost(pytest.approx(7e-6), Source.MEASURED)
    moe = MoeWork(5, 10.0, 6.0, 8, 2, 64, 128, distribution="uniform")
    assert table.cost(moe) == Cost(pytest.approx(30e-6), Source.MEASURED)
    decode = AttentionWork((), 8, 8 * 129, 129, 4, 2, 64, 64)
    assert table.cost(decode) == Cost(pytest.approx(8.128e-6), Source.MEASURED)


def test_other_shapes_are_the_fallbacks(table):
    for work in (
        GemmWork(51, 512, 513),
        GemmWork(51, 512, 512, "fp8", "fp8"),
        AttentionWork((), 8, 8 * 129, 129, 4, 4, 64, 64),
    ):
        assert table.cost(work).source == Source.CALIBRATED


def test_the_seam_is_continuous(table):
    edge = table.cost(GemmWork(101, 512, 512)).seconds
    beyond = table.cost(GemmWork(102, 512, 512))
    assert beyond.source == Source.CALIBRATED
    assert beyond.seconds == pytest.approx(edge * 112 / 111)
    moe = MoeWork(10, 20.0, 8.0, 8, 2, 64, 128, distribution="uniform")
    assert table.cost(moe).seconds == pytest.approx(50e-6 * 20 / 19)


def test_absent_tables(tmp_path):
    with pytest.raises(InputError, match="no kernel tables"):
        load_kernel_tables(tmp_path, PerRow())
