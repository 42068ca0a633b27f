"""Finding configs: ids, folders, files, and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servesim.errors import InputError, UnknownNameError, UnsupportedError
from servesim.models.config import ALIASES, CONFIGS, builtin_names, resolve

TINY = {"model_type": "llama", "hidden_size": 64}

#: Parameters as published: the sizes of the checkpoints' tensors.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3-Next-80B-A3B-Instruct": 79_674_391_296,
    "Qwen/Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/phi-4": 14_659_507_200,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "bigcode/starcoder2-15b": 15_957_889_024,
    "tiiuae/falcon-40b": 41_303_293_952,
    "openai-community/gpt2": 124_439_808,
    "facebook/opt-6.7b": 6_658_473_984,
    "bigscience/bloom-7b1": 7_069_016_064,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "state-spaces/mamba-2.8b-hf": 2_768_345_600,
    "ai21labs/Jamba-v0.1": 51_570_323_328,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 8_888_227_328,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
}


def write(path: Path, values: object) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_an_id_finds_the_file_that_is_named_after_it() -> None:
    config = resolve("meta-llama/Llama-3.1-8B")
    on_disk = json.loads((CONFIGS / "meta-llama" / "Llama-3.1-8B.json").read_text())
    assert config.name == "meta-llama/Llama-3.1-8B"
    assert config.values == {k: v for k, v in on_disk.items() if k != "_source"}
    assert (config.model_type, config.dtype, config.quantization) == ("llama", "bfloat16", None)


def test_ids_ignore_case_and_aliases_share_a_config() -> None:
    alias = resolve("META-LLAMA/llama-3.1-8b-instruct")
    assert alias.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert alias.content_hash == resolve("meta-llama/Llama-3.1-8B").content_hash


def test_a_quantised_checkpoint_is_its_base_and_a_quantization_config() -> None:
    base, quantised = resolve("Qwen/Qwen3-32B"), resolve("Qwen/Qwen3-32B-AWQ")
    changed = {k for k in quantised.values if base.values.get(k) != quantised.values[k]}
    assert changed == {"quantization_config"}
    assert quantised.content_hash != base.content_hash


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_config_names_its_source_and_can_be_used(name: str) -> None:
    config = resolve(name)
    assert config.model_type
    assert not any(key.startswith("_") for key in config.values)
    aliases = json.loads(ALIASES.read_text())
    raw = json.loads((CONFIGS / f"{aliases.get(name, name)}.json").read_text())
    assert raw["_source"].startswith("https://huggingface.co/")


def test_built_in_configs_have_the_published_parameters() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for name, published in PUBLISHED.items():
        values = dict(resolve(name).language_values)
        for key in ("quantization_config", "architectures"):
            values.pop(key, None)
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert counted == pytest.approx(published, rel=1e-3), name


def test_folders_and_files_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    file = write(folder / "config.json", {**TINY, "_comment": "not part of it"})
    assert resolve(str(folder)).name == resolve(str(file)).name == "my-model"
    assert resolve(str(folder)).values == TINY
    renamed = write(tmp_path / "other.json", dict(reversed(TINY.items())))
    assert resolve(str(renamed)).name == "other"
    assert resolve(str(renamed)).content_hash == resolve(str(folder)).content_hash


def test_the_language_model_of_a_multimodal_checkpoint() -> None:
    config = resolve("google/gemma-3-4b-it")
    assert config.model_type == "gemma3"
    assert config.language_values["model_type"] == "gemma3_text"
    assert config.dtype == "bfloat16"


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'meta-llama/Llama-3\.1-8B'"):
        resolve("meta-llama/Llama-3.1-9B")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ({"hidden_size": 1}, "has no model_type"),
        ({"model_type": "lama"}, "unknown model_type 'lama'; did you mean 'llama'"),
        ({"model_type": "llama", "num_hidden_layers": -2}, "num_hidden_layers must be above 0"),
        (
            {"text_config": {"num_attention_heads": 32, "num_key_value_heads": 7}},
            r"num_attention_heads \(32\) is no multiple of num_key_value_heads \(7\)",
        ),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, content: object, message: str) -> None:
    file = write(tmp_path / "config.json", content)
    with pytest.raises(InputError, match=message) as caught:
        resolve(str(file))
    assert "\n" not in str(caught.value)


def test_a_folder_without_config_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        resolve(str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        resolve(str(tmp_path / "nowhere" / "config.json"))


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UnsupportedError, match="BertForMaskedLM generates no text"):
        resolve(str(file))
    write(file, {"model_type": "bert", "architectures": ["BertModel"]})
    with pytest.raises(UnsupportedError, match="BertModel is an encoder, which generates no text"):
        resolve(str(file))
    for decoder in ({"architectures": ["BertLMHeadModel"]}, {"is_decoder": True}):
        write(file, {"model_type": "bert", "architectures": ["BertModel"], **decoder})
        assert resolve(str(file)).model_type == "bert"
    write(file, {"model_type": "qwen2", "architectures": ["Qwen2Model"]})
    assert resolve(str(file)).model_type == "qwen2"


def test_a_type_of_its_own_that_runs_known_code(tmp_path: Path) -> None:
    own = {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}
    assert resolve(str(write(tmp_path / "config.json", own))).model_type == "deepseek_v3"
    untyped = {"architectures": ["LlamaForCausalLM"]}
    assert resolve(str(write(tmp_path / "config.json", untyped))).model_type == "llama"
