"""Tables of another device or model than the one simulated are refused, in one line."""

from pathlib import Path

import pytest

from servesim.errors import InputError, UnknownNameError
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.gemm import Gemm
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.sources import measured_rows
from servesim.hardware.link import Link
from servesim.hardware.load import known_device, load_device
from servesim.hardware.tables.bundle import find_bundle
from servesim.hardware.tables.collectives import load_collectives
from servesim.hardware.tables.layer_profile import load_layer_profile
from servesim.hardware.tables.origin import device_names, require_device
from servesim.hardware.tables.profile import load_profile
from servesim.hardware.tables.sizes import differing

LINK = Link("wire", 1e9, 1e-6)
FILES = {
    "dense.csv": "layer,tokens,time_us\nqkv_proj,1,10\nqkv_proj,100,30\n",
    "per_sequence.csv": "layer,sequences,time_us\nlm_head,1,100\nlm_head,64,163\n",
    "attention.csv": (
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,1,16,8\n16,0,0,0,8\n"
    ),
}
OLDER = (
    "prefill_chunk_size,kv_cache_size,batch_size,is_prefill,p50_ns\n"
    "32,0,1,True,1000\n0,32,1,False,500\n"
)
RUN = """# Collective test starting: all_reduce_perf
#  Rank  0 Group  0 Pid  9 on   host device  0 [0x0f] {device}
#  Rank  1 Group  0 Pid  9 on   host device  1 [0x10] {device}
1024 256 float sum -1 1.00 0.1 0.1 0
2048 512 float sum -1 2.00 0.1 0.1 0
# Avg bus bandwidth : 0.1
"""
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
META = "profiler_version: 1.0.0\ngpu: {gpu}\nmodel: {model}\nvariant: bf16\n"


def graph(model: str = "org/model", hidden: int = 8) -> OpGraph:
    return OpGraph(model, (), (), 0, 0, 0.0, hidden, 8, 8)


def bundle(root: Path, **replaced: str) -> Path:
    place = root / "org/model/bf16/tp1"
    place.mkdir(parents=True)
    for name, text in {**FILES, **replaced}.items():
        (place / name).write_text(text)
    return root


def gemm_table(folder: Path, *devices: str) -> Path:
    rows = [f"{device},bfloat16,{m},8,8,1" for device in devices for m in (1, 2)]
    folder.mkdir(exist_ok=True)
    (folder / "gemm_perf.csv").write_text("\n".join(["device,gemm_dtype,m,n,k,latency", *rows]))
    return folder


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        (H100, "h100_sxm"),
        (A100, "a100_sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100_sxm_40gb"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx_pro_6000_workstation"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("TPU-v6e-1", "tpu_v6e"),
        ("NVIDIA A10G", None),  # another chip than A10
        ("something", None),
    ],
)
def test_drivers_names(name: str, stem: str | None) -> None:
    assert known_device(name) == stem


def test_devices_of_tables() -> None:
    where = Path("tables")
    require_device([H100, "h100_sxm", ""], "h100_sxm", where)
    require_device([H100], None, where)
    require_device([H100], "mine", where)
    require_device(["X"], "h100_sxm", where)
    with pytest.raises(InputError, match=r"tables: measured on NVIDIA A100.* \(a100_sxm\), not on"):
        require_device([A100], "h100_sxm", where)
    for several in ([H100, A100], [H100, "X"], ["X", "Y"]):
        with pytest.raises(InputError, match="measured on several devices"):
            require_device(several, None, where)


def test_kernel_tables_of_another_device(tmp_path: Path) -> None:
    device = load_device("rtx_pro_6000")
    with pytest.raises(InputError, match=f"measured on {H100} .*not on rtx_pro_6000"):
        load_profile(gemm_table(tmp_path / "a", H100), graph(), device)
    with pytest.raises(InputError, match="measured on several devices"):
        load_profile(gemm_table(tmp_path / "b", H100, A100), graph(), device)
    load_profile(gemm_table(tmp_path / "c", "NVIDIA RTX PRO 6000"), graph(), device)


def test_a_table_cut_off_is_not_of_several_devices(tmp_path: Path) -> None:
    path = gemm_table(tmp_path, H100) / "gemm_perf.csv"
    path.write_text(path.read_text() + "\nNVIDIA H1")
    assert device_names([path]) == {H100}
    with pytest.raises(InputError, match=r"line 4: latency: .* not nan"):
        load_profile(tmp_path, graph(), load_device("h100_sxm"))


def test_no_fit_to_tables_of_several_devices(tmp_path: Path) -> None:
    costs = load_device("h100_sxm").cost_model
    sizes = Geometry(8, 8, 1, 1, 8, 8)
    one = gemm_table(tmp_path / "one", H100)
    assert len(measured_rows(one, 0.0, lambda _: sizes, costs)) == 2
    gemm_table(tmp_path / "two", A100)
    with pytest.raises(InputError, match="measured on several devices"):
        measured_rows(tmp_path, 0.0, lambda _: sizes, costs)


def test_collectives_of_another_device(tmp_path: Path) -> None:
    path, costs = tmp_path / "run.txt", load_device("h100_sxm").cost_model
    path.write_text(RUN.format(device=H100))
    load_collectives(path, LINK, costs, "h100_sxm")
    with pytest.raises(InputError, match=f"measured on {H100}"):
        load_collectives(path, LINK, costs, "b200_sxm")


def test_layers_of_another_device(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "A100")
    load_profile(folder, graph(), load_device("a100_sxm"))
    with pytest.raises(InputError, match="measured on A100"):
        load_profile(folder, graph(), load_device("h100_sxm"))
    (folder / "org/model/bf16/meta.yaml").write_text(META.format(gpu=H100, model="org/model"))
    load_profile(folder, graph(), load_device("h100_sxm"))


SIZES = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 100,
}


def dense(model: str, weight: str = "bf16", ranks: int = 1) -> OpGraph:
    """Of ``SIZES``, on one of ``ranks`` ranks."""
    down = Gemm(16, 32 // ranks, weight=weight)
    ops = (
        Op("attention", Attention(4 // ranks, max(1, 2 // ranks), 4, 4)),
        Op("down_proj", down, ("attention",)),
    )
    blocks = (Block("layer", ops, (0,)),)
    return OpGraph(model, blocks, (), 0, 0, 0.0, 16, 100, 8, tensor_parallel_size=ranks)


def known(model: str) -> dict[str, int] | None:
    return {"org/model": SIZES, "org/wide": SIZES | {"intermediate_size": 64}}.get(model)


def test_layers_of_another_model(tmp_path: Path) -> None:
    folder, device = bundle(tmp_path), load_device("h100_sxm")
    find_bundle(folder, "org/model-8B")  # two folders may be called anything, ...
    where = folder / "org/model/bf16"
    (where / "meta.yaml").write_text(META.format(gpu="X", model="org/model"))
    for same in ("else/Meta-Model-Instruct", "else/model-FP8-dynamic", "model-w4a16"):
        find_bundle(folder, same)
    refused = "latencies of org/model, not of org/model-8B .*, or --profile-model org/model"
    with pytest.raises(InputError, match=refused):  # ... unless the bundle says the same
        find_bundle(folder, "org/model-8B")
    load_profile(folder, dense("org/model-8B"), device, "org/model")
    (where / "meta.yaml").unlink()
    with pytest.raises(InputError, match=refused):  # ... or a model is called so.
        load_profile(folder, graph("org/model-8B"), device, sizes_of=known)
    load_profile(folder, dense("snapshot"), device, sizes_of=known)  # has its sizes


def test_one_of_several_models(tmp_path: Path) -> None:
    for model in ("model", "wide"):
        place = tmp_path / f"org/{model}/bfloat16/tp1"
        place.mkdir(parents=True)
        for name, text in FILES.items():
            (place / name).write_text(text)
    where = tmp_path / "org/model/bfloat16"
    assert find_bundle(tmp_path, "else/Model-Instruct", "bf16") == where
    assert find_bundle(tmp_path, "snapshot", alike=lambda model: model == "org/model") == where
    with pytest.raises(InputError, match="no profile of org/more"):
        find_bundle(tmp_path, "org/more")


def test_layers_in_another_format(tmp_path: Path) -> None:
    folder, device = bundle(tmp_path), load_device("h100_sxm")
    for alike in ("bf16", "fp16"):
        load_profile(folder, dense("org/model", alike), device)
    with pytest.raises(InputError, match="weights in bf16, but org/model-FP8 has them in fp8"):
        load_profile(folder, dense("org/model-FP8", "fp8_block"), device)
    meta = META.format(gpu="X", model="org/model").replace("variant: bf16", "variant: fp8")
    (folder / "org/model/bf16/meta.yaml").write_text(meta)
    load_profile(folder, dense("org/model-FP8", "fp8_block"), device)
    with pytest.raises(InputError, match="weights in fp8, but org/model has them in bf16"):
        load_profile(folder, dense("org/model"), device)
    load_profile(folder, dense("org/model"), device, "org/model")


VIDUR = (
    "{},num_tokens,num_tensor_parallel_workers,time_stats.emb.median\n"
    "{values},1,1,0.01\n{values},9,1,0.02\n"
)


@pytest.mark.parametrize(
    ("column", "same", "other", "size"),
    [
        ("n_head", 4, 8, "num_attention_heads"),
        ("n_kv_head", 2, 4, "num_key_value_heads"),
        ("n_embd", 16, 32, "hidden_size"),
        ("n_expanded_embd", 32, 64, "intermediate_size"),
        ("vocab_size", 102, 128, "vocab_size"),  # 102: padded
    ],
)
def test_layers_of_other_widths(
    tmp_path: Path, column: str, same: int, other: int, size: str
) -> None:
    device = load_device("h100_sxm")
    (tmp_path / "attention.csv").write_text(OLDER)
    (tmp_path / "mlp.csv").write_text(VIDUR.format(column, values=same))
    load_profile(tmp_path, dense("org/model"), device)
    (tmp_path / "mlp.csv").write_text(VIDUR.format(column, values=other))
    with pytest.raises(InputError, match=f"{size} = {other}, but org/model has"):
        load_profile(tmp_path, dense("org/model"), device)
    load_profile(tmp_path, dense("org/model"), device, "another/model")


def test_heads_that_ranks_repeat() -> None:
    assert differing(SIZES, dense("org/model", ranks=4)) is None
    assert differing(SIZES | {"num_key_value_heads": 4}, dense("org/model")) is not None


def test_times_too_long_for_their_unit(tmp_path: Path) -> None:
    product = Op("qkv_proj", Gemm(16384, 16384))  # 0.54 GB of weights: 160 µs at 3.35 TB/s
    wide = OpGraph("org/model", (Block("layer", (product,), (0,)),), (), 0, 0, 0.0, 16384, 8, 8)
    times = "layer,tokens,time_us\nqkv_proj,1,{:.0f}\nqkv_proj,100,{:.0f}\n"
    for unit in (1, 50):
        text = times.format(180 * unit, 200 * unit)
        folder = bundle(tmp_path / str(unit), **{"dense.csv": text})
        load_profile(folder, wide, load_device("h100_sxm"))
    folder = bundle(tmp_path / "ns", **{"dense.csv": times.format(180e3, 200e3)})
    with pytest.raises(InputError, match=r"products take \d+ times what they should .* the unit"):
        load_profile(folder, wide, load_device("h100_sxm"))


def test_misspelt_layers(tmp_path: Path) -> None:
    dense = "layer,tokens,time_us\n{},1,10\n{},9,10\n"
    with pytest.raises(UnknownNameError, match=r"'gate_upproj'; did you mean 'gate_up_proj'"):
        load_layer_profile(
            bundle(tmp_path / "a", **{"dense.csv": dense.format("gate_upproj", "o_proj")}), 1, None
        )
    own = bundle(tmp_path / "b", **{"dense.csv": dense.format("dt_proj", "o_proj")})
    load_layer_profile(own, 1, None, layers=("dt_proj",))  # of this model
    older = tmp_path / "c/tp1"
    older.mkdir(parents=True)
    (older / "layers.csv").write_text("layer_name,input,latency(ns)\ndown_prj,1,33\n")
    (older / "attention.csv").write_text(OLDER)
    with pytest.raises(UnknownNameError, match="did you mean 'down_proj'"):
        load_layer_profile(older, 1, None)
