"""Importing a bundle of layer latencies, made up here and measured where it is at hand."""

import gzip
from pathlib import Path

import pytest

from servesim.errors import InputError
from servesim.graph.work import AttentionWork, CollectiveWork, GemmWork, MemoryWork
from servesim.hardware.cost import Cost, Source
from servesim.hardware.tables.bundle import find_bundle
from servesim.hardware.tables.grid import Curve
from servesim.hardware.tables.layer_profile import load_layer_profile

SHARED = Path(__file__).parents[2].parent / "shared" / "profiles" / "RTXPRO6000"
FILES = {
    "dense.csv": "layer,tokens,time_us\nqkv_proj,1,10\nqkv_proj,100,30\nqk_norm,1,2\nqk_norm,9,6\n",
    "per_sequence.csv": "layer,sequences,time_us\nlm_head,1,100\nlm_head,64,163\n",
    "attention.csv": (
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
        "0,0,1,16,8\n0,0,1,1024,16\n0,0,64,16,20\n0,0,64,1024,200\n"
        "16,0,0,0,8\n16,1024,0,0,20\n512,0,0,0,30\n512,1024,0,0,70\n"
    ),
}


class Seven:
    """A fallback that is easy to tell."""

    def cost(self, work):
        return Cost(7.0, Source.ANALYTICAL)


def bundle(root, model="org/model", dtype="bf16", tp=1, **replaced):
    place = root / model / dtype / f"tp{tp}"
    place.mkdir(parents=True)
    for name, text in {**FILES, **replaced}.items():
        (place / name).write_text(text)
    return root


def test_costs_are_found_by_serving_name(tmp_path):
    profile = load_layer_profile(bundle(tmp_path), 1, Seven())
    first = profile.cost(GemmWork(1, 5, 5, label="qkv_proj"))
    assert first == Cost(pytest.approx(10e-6), Source.MEASURED)
    assert profile.cost(GemmWork(100, 5, 5, label="qkv_proj")).seconds == pytest.approx(30e-6)
    assert profile.cost(GemmWork(64, 5, 5, label="lm_head")).seconds == pytest.approx(163e-6)
    assert profile.cost(AttentionWork((), 1, 17, 17, 4, 4, 8, 8)).seconds == pytest.approx(8e-6)
    assert profile.cost(GemmWork(1, 5, 5, label="elsewhere")).seconds == 7
    assert profile.cost(CollectiveWork("all_reduce", 8, 2, label="qkv_proj")).seconds == 7


def test_rows_of_a_per_head_norm_are_counted_in_tokens(tmp_path):
    profile = load_layer_profile(bundle(tmp_path), 1, Seven())
    norm = MemoryWork("norm", 9 * 40, 1.0, 1.0, label="qk_norm", per_token=40)
    assert profile.cost(norm) == Cost(pytest.approx(6e-6), Source.MEASURED)


def test_norms_inside_the_model_add_the_residual_as_the_final_one_does(tmp_path):
    norms = "layernorm,1,2\nlayernorm,9,4\nfinal_layernorm,1,3\nfinal_layernorm,9,5\n"
    folder = bundle(tmp_path, **{"dense.csv": "layer,tokens,time_us\n" + norms})
    work = MemoryWork("norm", 9, 1.0, 1.0, label="layernorm")
    assert load_layer_profile(folder, 1, Seven()).cost(work).seconds == pytest.approx(5e-6)


def test_beyond_the_range_the_slope_goes_on(tmp_path):
    profile = load_layer_profile(bundle(tmp_path), 1, Seven())
    beyond = profile.cost(GemmWork(199, 5, 5, label="qkv_proj"))
    assert beyond == Cost(pytest.approx(50e-6), Source.EXTRAPOLATED)


def test_curves():
    curve = Curve.of([(4, 40.0), (1, 10.0), (2, 20.0), (2, 22.0)])
    assert curve.at(2) == 21
    assert curve.at(3) == 30.5
    assert curve.at(0.5) == 10
    assert (curve.inside(4), curve.inside(5)) == (True, False)
    assert curve.at(6) == pytest.approx(40 + (40 - curve.at(2.5)) / 1.5 * 2)
    falling = Curve.of([(1, 3.0), (9, 1.0)])
    assert falling.at(100) == 1


@pytest.mark.parametrize("below", ["", "org", "org/model", "org/model/bf16", "org/model/bf16/tp1"])
def test_any_folder_that_leads_to_one_model_will_do(tmp_path, below):
    place = bundle(tmp_path) / below
    assert find_bundle(place) == tmp_path / "org/model/bf16"


def test_several_models_or_formats_must_be_told_apart(tmp_path):
    bundle(bundle(bundle(tmp_path), "org/other"), "org/other", "fp8")
    with pytest.raises(InputError, match="several profiles, name one of: org/model/bf16"):
        find_bundle(tmp_path)
    assert find_bundle(tmp_path, "org/model") == tmp_path / "org/model/bf16"
    with pytest.raises(InputError, match="several"):
        find_bundle(tmp_path, "org/other")
    assert find_bundle(tmp_path, "org/other", "fp8") == tmp_path / "org/other/fp8"
    with pytest.raises(InputError, match="no profile of org/third"):
        find_bundle(tmp_path, "org/third")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"dense.csv": "layer,tokens\nqkv_proj,1\n"}, "no column 'time_us'"),
        ({"dense.csv": "layer,tokens,time_us\nqkv_proj,one,10\n"}, "line 2"),
        ({"dense.csv": "layer,tokens,time_us\nqkv_proj,1,-10\n"}, "finite, not -10"),
        ({"per_sequence.csv": "layer,sequences,time_us\n"}, "no measurements"),
        ({"attention.csv": FILES["attention.csv"].split("16,0,0,0")[0]}, "prefill measurements"),
    ],
)
def test_malformed_bundles(tmp_path, replaced, message):
    with pytest.raises(InputError, match=message):
        load_layer_profile(bundle(tmp_path, **replaced), 1, Seven())


def test_absent_bundles(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_layer_profile(tmp_path / "none", 1, Seven())
    with pytest.raises(InputError, match="no layer profile"):
        load_layer_profile(tmp_path, 1, Seven())
    with pytest.raises(InputError, match=r"no profile for tp4 \(there: tp1\)"):
        load_layer_profile(bundle(tmp_path), 4, Seven())


@pytest.mark.parametrize(("model", "tp"), [("meta-llama/Llama-3.1-8B", 1), ("Qwen/Qwen3-32B", 2)])
def test_a_measured_bundle_gives_back_its_measurements(model, tp):
    if not SHARED.is_dir():
        pytest.skip("no shared measurements")
    profile = load_layer_profile(SHARED, tp, Seven(), model=model)
    rows = (SHARED / model / "bf16" / f"tp{tp}" / "attention.csv").read_text().splitlines()[1:]
    for row in rows[::97]:
        chunk, before, n, kv, us = (float(x) for x in row.split(","))
        prefills = ((int(chunk), int(before)),) if chunk else ()
        keys = int(n * (kv + 1))
        work = AttentionWork(prefills, int(n), keys, int(kv) + 1 if n else 0, 32, 8, 128, 128)
        assert profile.cost(work) == Cost(pytest.approx(us * 1e-6), Source.MEASURED)


def test_interpolation_predicts_measurements_left_out():
    """Decodes at every second measured context, from the contexts between."""
    if not SHARED.is_dir():
        pytest.skip("no shared measurements")
    profile = load_layer_profile(SHARED, 1, Seven(), model="meta-llama/Llama-3.1-8B")
    grid = profile.attention.grid
    errors = []
    for row in grid.alone:
        for a, b in ((4, 6), (6, 8), (8, 11), (11, 15)):
            low, high = grid.contexts[a], grid.contexts[b]
            middle = (a + b) // 2
            w = (grid.contexts[middle] - low) / (high - low)
            errors.append(abs((row[a] + w * (row[b] - row[a])) / row[middle] - 1))
    assert sorted(errors)[len(errors) // 2] < 0.02


V0_LAYERS = (
    "layer_name,input,kv_cache,tp_size,latency(ns)\n"
    + "".join(
        f"{part},{n},0,1,{base * n}\n"
        for part, base in (("q_proj", 400), ("k_proj", 100), ("v_proj", 100), ("o_proj", 300))
        for n in (1, 10)
    )
    + "act_fn,1,0,1,33\n"
)
V0_ATTENTION = (
    "prefill_chunk_size,kv_cache_size,batch_size,is_prefill,mean_ns,p50_ns\n"
    "32,0,1,True,0,1000\n64,0,1,True,0,2000\n32,64,1,True,0,3000\n64,64,1,True,0,4000\n"
    "0,32,1,False,0,500\n0,64,1,False,0,600\n0,32,9,False,0,900\n0,64,9,False,0,1400\n"
)


def test_the_first_llmservingsim_layout(tmp_path):
    place = tmp_path / "hw" / "org" / "model" / "tp1"
    place.mkdir(parents=True)
    (place / "layers.csv.gz").write_bytes(gzip.compress(V0_LAYERS.encode()))
    (place / "attention.csv").write_text(V0_ATTENTION)
    profile = load_layer_profile(tmp_path, 1, Seven())
    assert profile.cost(GemmWork(10, 1, 1, label="qkv_proj")).seconds == pytest.approx(6e-6)
    assert profile.cost(GemmWork(1, 1, 1, label="o_proj")).seconds == pytest.approx(300e-9)
    assert profile.cost(MemoryWork("activation", 1, 1.0, 1.0, label="act_fn")).seconds == 7
    attention = profile.cost(AttentionWork(((64, 0),), 9, 9 * 65, 65, 4, 4, 8, 8))
    assert attention == Cost(pytest.approx(2000e-9 + 1400e-9), Source.MEASURED)


def test_vidurs_layout(tmp_path):
    (tmp_path / "mlp.csv").write_text(
        "num_tokens,num_tensor_parallel_workers,time_stats.attn_pre_proj.median,"
        "time_stats.input_layernorm.median,time_stats.add.median\n"
        "1,1,0.01,0.002,0.001\n9,1,0.05,0.004,0.003\n1,2,0.009,0.002,0.001\n9,2,0.02,0.004,0.003\n"
    )
    head = "time_stats.attn_prefill.median,time_stats.attn_decode.median,batch_size"
    (tmp_path / "attention.csv").write_text(
        f"{head},prefill_chunk_size,kv_cache_size,is_prefill,num_tensor_parallel_workers\n"
        "0.1,,1,32,0,True,2\n0.2,,1,64,0,True,2\n,0.01,1,0,64,False,2\n,0.03,9,0,64,False,2\n"
        "9,,1,32,0,True,1\n,9,1,0,64,False,1\n"
    )
    profile = load_layer_profile(tmp_path, 2, Seven())
    assert profile.cost(GemmWork(9, 1, 1, label="qkv_proj")).seconds == pytest.approx(20e-6)
    norm = profile.cost(MemoryWork("norm", 9, 1.0, 1.0, label="layernorm"))
    assert norm.seconds == pytest.approx(7e-6)
    decode = profile.cost(AttentionWork((), 5, 5 * 65, 65, 4, 4, 8, 8))
    assert decode.seconds == pytest.approx(20e-6)
    with pytest.raises(InputError, match=r"tensor_parallel_size 4 \(there: 1, 2\)"):
        load_layer_profile(tmp_path, 4, Seven())


def test_no_decode_reads_faster_than_memory(tmp_path: Path) -> None:
    decodes = AttentionWork((), 4, 4 * 1000, 1000, 8, 2, 128, 128)
    folder = bundle(tmp_path)
    free = load_layer_profile(folder, 1, Seven())
    least = 4 * 1000 * 2 * (128 + 128) * 2 / 1e9  # keys and values of two heads, bf16, at 1 GB/s
    held = load_layer_profile(folder, 1, Seven(), bandwidth=1e9).cost(decodes)
    assert held.seconds == pytest.approx(least)
    assert held.source is Source.ANALYTICAL
    assert free.cost(decodes).seconds < least
