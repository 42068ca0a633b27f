"""Loading graphs: from disk when nothing changed, traced anew when anything did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.models import load
from servesim.models.config import resolve
from servesim.models.load import cache_directory, load_graph

MODEL = "HuggingFaceTB/SmolLM2-135M"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERVESIM_CACHE", str(tmp_path / "cache"))
    return cache_directory()


def test_the_second_time_comes_from_disk(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_graph(MODEL)
    assert len(list(own_cache.iterdir())) == 1
    monkeypatch.setattr("servesim.models.build_graph.trace_graph", None)
    assert load_graph(MODEL) == first


def test_a_damaged_file_is_traced_anew(own_cache: Path) -> None:
    first = load_graph(MODEL)
    (file,) = own_cache.iterdir()
    for damage in ("", "{", "[]", '{"model": "x"}', file.read_text()[:-40]):
        file.write_text(damage)
        assert load_graph(MODEL) == first
    assert json.loads(file.read_text())


def test_code_config_and_dtype_are_in_the_key(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_graph(MODEL)
    load_graph(MODEL, dtype="fp16")
    load_graph("HuggingFaceTB/SmolLM2-360M")
    monkeypatch.setattr(load, "_code_hash", lambda: "another version")
    load_graph(MODEL)
    assert len(list(own_cache.iterdir())) == 4


def test_without_the_cache_nothing_is_written(own_cache: Path) -> None:
    load_graph(MODEL, cache=False)
    assert not own_cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SERVESIM_CACHE", str(tmp_path / "file"))
    assert load_graph(MODEL).num_layers == 30


def test_a_cached_graph_needs_no_torch(own_cache: Path) -> None:
    load_graph(MODEL)
    code = (
        "import sys; from servesim.models.load import load_graph; "
        f"load_graph({MODEL!r}); print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'meta-llama/Llama-3\.1-8B'"):
        load_graph("meta-llama/Llama-3.1-8")
    with pytest.raises(InputError, match="no format to compute in"):
        load_graph(MODEL, dtype="int4")
    with pytest.raises(UnknownNameError, match="unknown dtype 'bf17'"):
        load_graph(MODEL, dtype="bf17")
    with pytest.raises(UnsupportedError, match="9 do not divide among 2"):
        load_graph(MODEL, tensor_parallel_size=2)


def test_a_config_that_builds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "hidden_size": "wide"}))
    with pytest.raises(InputError, match=r"'llama' does not build.*expected int, got str"):
        load_graph(str(file))
    file.write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UnsupportedError, match="no causal language model"):
        load_graph(str(file))


def test_tracing_leaves_the_config_alone() -> None:
    before = json.dumps(resolve("meta-llama/Llama-3.2-1B").values)
    load_graph("meta-llama/Llama-3.2-1B", cache=False)
    assert json.dumps(resolve("meta-llama/Llama-3.2-1B").values) == before


@pytest.mark.parametrize(
    ("values", "longest"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4096),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 8.0,
                           "original_max_position_embeddings": 512}}, 4096),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                           "high_freq_factor": 4.0, "original_max_position_embeddings": 512}},
         1024),
    ],
)  # fmt: skip
def test_rotary_scaling_stretches_the_context(
    values: dict[str, object], longest: int, tmp_path: Path
) -> None:
    tiny = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 1024,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(tiny | values))
    assert load_graph(str(tmp_path)).max_model_len == longest
