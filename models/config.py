"""Finding a model's config.json: a built-in Hugging Face id, a folder, or a file."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from servesim.errors import InputError, UnknownNameError, UnsupportedError, reason

#: ``<organisation>/<name>.json`` is the config.json of the model ``<organisation>/<name>``.
CONFIGS = Path(__file__).parent / "configs"
#: Ids whose config.json equals another's in all that a simulation sees: id -> built-in id.
ALIASES = CONFIGS / "aliases.json"

#: Where checkpoints with vision or audio towers keep the config of their language model.
_LANGUAGE_KEYS = ("thinker_config", "text_config", "llm_config", "language_config")
#: Ends of the names of classes that classify or fill in, whose configs could be language models'.
_NOT_GENERATING = (
    "ForMaskedLM", "ForQuestionAnswering", "ForSequenceClassification", "ForTokenClassification"
)  # fmt: skip
#: Ends of the names of classes that make a language model of an encoder's layers.
_GENERATING = ("ForCausalLM", "LMHeadModel")

#: Keys of sizes that no model has fewer of than one.
_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"
)  # fmt: skip
#: Keys of the number of layers that draft tokens after the next (multi-token prediction), and the
#: types whose checkpoints have one that no key tells of (vLLM, ``vllm/config/speculative.py``).
MTP_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
_MTP_UNTOLD = ("qwen3_next",)
_HEADS = ("num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model's config.json.

    Attributes:
        name: the id, or the folder's or file's name.
        values: the content of config.json, without keys that start with an underscore.
        content_hash: SHA-256 (hex) of ``values`` as canonical JSON: equal configs, equal hash.
    """

    name: str
    values: dict[str, Any]
    content_hash: str

    @property
    def model_type(self) -> str:
        """The architecture's name in ``transformers``."""
        return str(self.values["model_type"])

    @property
    def language_values(self) -> dict[str, Any]:
        """The values of the language model alone: ``values`` unless there are other towers."""
        values = self.values
        for key in _LANGUAGE_KEYS:
            if isinstance(values.get(key), dict):
                values = values[key]
        return values

    @property
    def dtype(self) -> str | None:
        """Number format the checkpoint was saved in, as config.json spells it."""
        for values in (self.language_values, self.values):
            dtype = values.get("dtype") or values.get("torch_dtype")
            if dtype:
                return str(dtype)
        return None

    @property
    def quantization(self) -> dict[str, Any] | None:
        """The ``quantization_config``, if the checkpoint is quantised."""
        for values in (self.values, self.language_values):
            found = values.get("quantization_config") or values.get("compression_config")
            if isinstance(found, dict):
                return found
        return None

    @property
    def drafts_itself(self) -> bool:
        """Whether the checkpoint has layers for multi-token prediction."""
        values = self.language_values
        return any(values.get(key) for key in MTP_KEYS) or self.model_type in _MTP_UNTOLD


def resolve(model: str) -> ModelConfig:
    """The config of ``model``: a built-in id (any case), a folder with a config.json, or a file.

    Raises:
        UnknownNameError: neither a path nor a built-in id; names the nearest id.
        InputError: the folder has no config.json, or the file is no usable model config.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"model folder {model!r} has no config.json")
        return _from_file(path / "config.json", path.resolve().name)
    if path.is_file():
        return _from_file(path, path.stem if path.stem != "config" else path.resolve().parent.name)
    if (found := builtin(model)) is not None:
        return found
    if model.endswith(".json") or model.startswith((".", "/", "~")):
        raise InputError(f"model config {model!r} does not exist")
    raise UnknownNameError("model", model, builtin_names())


def builtin(model: str) -> ModelConfig | None:
    """The built-in config of an id (any case), if there is one."""
    names = {name.lower(): name for name in builtin_names()}
    name = names.get(model.lower())
    return None if name is None else _builtin(name)


@cache
def builtin_names() -> tuple[str, ...]:
    """Every id with a built-in config, aliases included, sorted."""
    files = (path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.glob("*/*.json"))
    return tuple(sorted([*(path.as_posix() for path in files), *_aliases()]))


@cache
def _aliases() -> dict[str, str]:
    aliases: dict[str, str] = json.loads(ALIASES.read_text(encoding="utf-8"))
    return aliases


@cache
def _builtin(name: str) -> ModelConfig:
    return _config(name, _builtin_values(_aliases().get(name, name)))


def _builtin_values(name: str) -> dict[str, Any]:
    """The file of ``name`` over the values of its ``_base``, if it names one."""
    values: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    if "_base" in values:
        return {**_builtin_values(values["_base"]), **values}
    return values


def _from_file(path: Path, name: str) -> ModelConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model config {str(path)!r} cannot be read: {reason(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"model config {str(path)!r} is no JSON object")
    _require_sizes(values, path)
    return _config(name, values | {"model_type": _model_type(values, path)})


def _require_sizes(values: dict[str, Any], path: Path) -> None:
    """Refuse sizes that no model has; whether a config's class can do with others it says itself.

    Raises:
        InputError: a size is below 1, or query heads do not divide among KV heads.
    """
    for part in (values, *map(values.get, _LANGUAGE_KEYS)):
        if not isinstance(part, dict):
            continue
        for key in _SIZES:
            if isinstance(part.get(key), int) and part[key] < 1:
                raise InputError(f"model config {str(path)!r}: {key} must be above 0")
        heads, kv_heads = (part.get(key) for key in _HEADS)
        if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
            raise InputError(
                f"model config {str(path)!r}: {_HEADS[0]} ({heads}) is no multiple of {_HEADS[1]}"
                f" ({kv_heads})"
            )


def _model_type(values: dict[str, Any], path: Path) -> str:
    """The model type, or that of the class the config names: checkpoints with a type of their own
    may run known code (Kimi-K2 that of DeepSeek-V3).

    Raises:
        InputError: neither is known.
        UnsupportedError: the class the config names generates nothing.
    """
    architectures = [str(name) for name in values.get("architectures") or ()]
    for architecture in architectures:
        if architecture.endswith(_NOT_GENERATING):
            raise UnsupportedError(f"model config {str(path)!r}: {architecture} generates no text")
    model_type, known = values.get("model_type"), _model_types()
    generates = values.get("is_decoder") or any(a.endswith(_GENERATING) for a in architectures)
    if architectures and model_type in _encoders() and not generates:
        raise UnsupportedError(
            f"model config {str(path)!r}: {architectures[0]} is an encoder, which generates no text"
        )
    if isinstance(model_type, str) and model_type in known:
        return model_type
    for architecture in architectures:
        if architecture in _causal_classes():
            return _causal_classes()[architecture]
    if not isinstance(model_type, str):
        raise InputError(f"model config {str(path)!r} has no model_type")
    near = difflib.get_close_matches(model_type, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"model config {str(path)!r}: unknown model_type {model_type!r}{hint}"
        f" (the installed transformers knows {len(known)})"
    )


def _config(name: str, values: dict[str, Any]) -> ModelConfig:
    facts = {key: value for key, value in values.items() if not key.startswith("_")}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return ModelConfig(name, facts, hashlib.sha256(canonical.encode()).hexdigest())


@cache
def _model_types() -> tuple[str, ...]:
    """The model types of the installed ``transformers``."""
    files = ("auto_mappings.py", "configuration_auto.py")
    pairs = [pair for file in files for pair in _mapped(file)]
    return tuple(sorted({key for key, value in pairs if value.endswith("Config")}))


@cache
def _causal_classes() -> dict[str, str]:
    """Model types by their causal-LM classes, which are named after them."""
    return {
        name: key
        for key, name in _mapped("modeling_auto.py")
        if name.lower() == f"{key.replace('_', '')}forcausallm"
    }


@cache
def _encoders() -> frozenset[str]:
    """Model types that see the whole text at once: those with a class that fills in."""
    pairs = _mapped("modeling_auto.py")
    return frozenset(key for key, name in pairs if name.endswith("ForMaskedLM"))


def _mapped(file: str) -> list[tuple[str, str]]:
    """The pairs in the mappings of a module of ``transformers``, read without importing it."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("transformers is not installed: its model types are unknown")
    path = Path(spec.submodule_search_locations[0]) / "models" / "auto" / file
    if not path.is_file():
        return []
    return list(_text_pairs(ast.parse(path.read_text(encoding="utf-8"))))


def _text_pairs(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Tuples of two strings, and dict entries of strings."""
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr | None, ast.expr]] = []
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            pairs = [(node.elts[0], node.elts[1])]
        elif isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        for key, value in pairs:
            if _text(key) and _text(value):
                yield _text(key), _text(value)


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""
