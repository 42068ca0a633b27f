"""Bench folders of LLMServingSim: vLLM's own statistics of every request, beside its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.runtime.config import EngineConfig
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.validation.client_run import Failed, failure_notes
from servesim.validation.json_files import find_document, json_documents
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.readers import READERS

_ROWS, _OURS = "requests.jsonl", "run.json"
#: A column's names: this project's, and those of vLLM's ``RequestStateStats`` and token lists.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "queued": ("queued_s", "queued_ts"),
    "first token": ("first_token_s", "first_token_ts"),
    "finished": ("finished_s", "last_token_ts"),
    "prompt tokens": ("prompt_tokens", "num_prompt_tokens", "input_toks"),
    "output tokens": ("output_tokens", "num_generation_tokens", "output_toks"),
}
_TOKEN_IDS = ("prompt_token_ids", "input_tok_ids")
_ENGINE = ("engine", "engine_args", "engine_kwargs")
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a JSON file of the folder says of the run."""

    model: str = ""
    hardware: str = ""
    engine: Mapping[str, Any] | None = None


@READERS.register("llmservingsim")
@dataclass(frozen=True)
class LlmServingSim:
    """``requests.jsonl`` in the folder or in its ``vllm``, with seconds by the engine's clock.

    A JSON file beside it may name ``model``, ``hardware`` and, as ``engine`` or ``engine_args``,
    the engine's options; flags supply what is missing. Equal token ids are equal prefixes.
    """

    def matches(self, path: Path) -> bool:
        """A folder with rows of vLLM's statistics (and without ``run.json``: an engine log)."""
        folder = _folder(path)
        row = find_document(folder / _ROWS)
        if row is None or (folder / _OURS).is_file():
            return False
        return any(name in row for name in _COLUMNS["queued"])

    def read(self, path: Path) -> MeasuredRun:
        """The run in folder ``path``."""
        folder = _folder(path)
        settings, place = _settings(folder), folder / _ROWS
        options, dropped = _known_options(settings.engine or {})
        hasher = PrefixHasher(int(options.get("block_size", _BLOCK)))
        rows = json_documents(place)
        found = [_request(row, i, f"{place}:{i + 1}", hasher) for i, row in enumerate(rows)]
        kept = [one for one in found if isinstance(one, MeasuredRequest)]
        unused = f"engine options that are not used: {', '.join(dropped)}"
        return MeasuredRun(
            name=path.absolute().name,
            hardware=settings.hardware,
            model=settings.model,
            hf_config=None,
            engine=options,
            requests=tuple(sorted(kept, key=lambda one: (one.arrival_s, one.id))),
            clock="engine",
            source="LLMServingSim bench",
            notes=(*failure_notes(found), *((unused,) if dropped else ())),
        )


def _folder(path: Path) -> Path:
    inner = path / "vllm"
    return inner if (inner / _ROWS).is_file() else path


def _settings(folder: Path) -> _Settings:
    """Of the first JSON file, by name, that names a model."""
    for path in sorted(folder.glob("*.json")):
        about = find_document(path)
        if about is None or not isinstance(about.get("model"), str):
            continue
        given = (about[key] for key in _ENGINE if isinstance(about.get(key), dict))
        return _Settings(about["model"], str(about.get("hardware") or ""), next(given, None))
    return _Settings()


def _known_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[str]]:
    """The options that an ``EngineConfig`` has, and the names of the others."""
    known = {field.name for field in fields(EngineConfig)}
    set_ = {key: value for key, value in given.items() if value is not None}
    return {k: v for k, v in set_.items() if k in known}, sorted(k for k in set_ if k not in known)


def _request(
    row: Mapping[str, Any], number: int, where: str, hasher: PrefixHasher
) -> MeasuredRequest | Failed:
    try:
        values = {column: _value(row, column, names) for column, names in _COLUMNS.items()}
        if not values["output tokens"]:
            return Failed(number, "no output")
        tokens = next((row[name] for name in _TOKEN_IDS if name in row), ())
        given = row.get("prefix_block_ids")
        return MeasuredRequest(
            id=number,
            arrival_s=values["queued"],
            first_token_s=values["first token"],
            finished_s=values["finished"],
            prompt_tokens=int(values["prompt tokens"]),
            output_tokens=int(values["output tokens"]),
            prefix_block_ids=tuple(hasher.identities(tokens) if given is None else given),
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _value(row: Mapping[str, Any], column: str, names: Sequence[str]) -> float:
    for name in names:
        if row.get(name) is not None:
            return float(row[name])
    raise ValueError(f"no {column}: none of {', '.join(names)}")
