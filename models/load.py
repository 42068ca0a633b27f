"""A model's operator graph: from the cache on disk, or traced and put there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
from functools import cache as memoise
from pathlib import Path

import servesim.graph
from servesim.errors import InputError
from servesim.graph.dtypes import short_name
from servesim.graph.opgraph import OpGraph
from servesim.graph.serial import from_dict, to_dict
from servesim.graph.shard import shard
from servesim.models.config import ModelConfig, resolve

_TRACEABLE = ("bf16", "fp16", "fp32")


def load_graph(
    model: str,
    *,
    tensor_parallel_size: int = 1,
    dtype: str | None = None,
    cache: bool = True,
    enable_expert_parallel: bool = False,
) -> OpGraph:
    """The operator graph of one tensor-parallel rank of ``model``.

    Args:
        model: a built-in Hugging Face id, a folder with a config.json, or a config.json.
        tensor_parallel_size: ranks that share the model.
        dtype: ``bf16``, ``fp16`` or ``fp32``; by default, or ``auto``, the checkpoint's own.
        enable_expert_parallel: deal whole experts to the ranks, not slices of each.
        cache: use and fill the cache in ``$SERVESIM_CACHE`` (default ``~/.cache/servesim``).

    Raises:
        UnknownNameError: no such model or number format.
        InputError: the config cannot be used.
        UnsupportedError: the model cannot be traced, or not be shared by so many ranks.
    """
    config = resolve(model)
    chosen = serving_dtype(config, dtype)
    path = cache_directory() / f"{_key(config, chosen)}.json"
    graph = _read(path, config.name) if cache else None
    if graph is None:
        from servesim.models.build_graph import trace_graph

        graph = trace_graph(config, chosen)
        if cache:
            _write(path, graph)
    return shard(graph, tensor_parallel_size, enable_expert_parallel=enable_expert_parallel)


def load_tower(model: str, *, dtype: str | None = None, cache: bool = True) -> OpGraph | None:
    """The vision tower of ``model`` as a graph of its own, a row a patch of one image.

    None for models without one. Arguments and errors are those of `load_graph`.
    """
    config = resolve(model)
    if "vision_config" not in config.values:
        return None
    chosen = serving_dtype(config, dtype)
    name = f"{config.name} (vision tower)"
    path = cache_directory() / f"{_key(config, chosen)}-vision.json"
    graph = _read(path, name) if cache else None
    if graph is None:
        from servesim.models.build_tower import trace_tower

        graph = trace_tower(config, chosen)
        if cache and graph is not None:
            _write(path, graph)
    return graph


def cache_directory() -> Path:
    """Where traced graphs are kept."""
    given = os.environ.get("SERVESIM_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "servesim"


def serving_dtype(config: ModelConfig, dtype: str | None) -> str:
    """The number format of weights and activations: 32-bit checkpoints are served in bf16.

    Raises:
        UnknownNameError, InputError: ``dtype`` is no number format, or none to compute in.
    """
    if dtype is None or dtype == "auto":
        saved = short_name(config.dtype) if config.dtype else "bf16"
        return saved if saved in {"bf16", "fp16"} else "bf16"
    chosen = short_name(dtype)
    if chosen not in _TRACEABLE:
        raise InputError(f"dtype {dtype!r} is no format to compute in; use one of {_TRACEABLE}")
    return chosen


def _key(config: ModelConfig, dtype: str) -> str:
    """Changes whenever the traced graph might: config, versions, servesim's own code."""
    parts = [config.content_hash, dtype, _versions(), _code_hash()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@memoise
def _versions() -> str:
    return " ".join(importlib.metadata.version(p) for p in ("torch", "transformers"))


@memoise
def _code_hash() -> str:
    """Hash of the source files that decide what a graph is."""
    digest = hashlib.sha256()
    graph = Path(servesim.graph.__path__[0])
    models = Path(__file__).parent
    for file in sorted([*graph.rglob("*.py"), *models.glob("build*.py")]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _read(path: Path, name: str) -> OpGraph | None:
    """The cached graph, or None if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return from_dict(values | {"model": name})
    except Exception:  # a damaged file is traced anew
        return None


def _write(path: Path, graph: OpGraph) -> None:
    """Write atomically; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
        ) as file:
            name = Path(file.name)
            try:
                json.dump(to_dict(graph), file)
                file.flush()
                name.replace(path)
            except OSError:
                name.unlink(missing_ok=True)
