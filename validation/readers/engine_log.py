"""Runs recorded inside the engine: a folder with ``run.json`` and ``requests.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.validation.client_run import MALFORMED
from servesim.validation.json_files import json_documents, read_object
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.readers import READERS

#: Keys of run.json beside ``engine`` that are engine options.
_OPTIONS = ("block_size", "gpu_memory_utilization", "enable_prefix_caching", "async_scheduling")


@READERS.register("engine_log")
@dataclass(frozen=True)
class EngineLog:
    """``run.json`` (model config, engine options) and one line a request in ``requests.jsonl``.

    Times are seconds since the first request was queued in the engine; ``queued_s`` is stamped
    when the engine drains its input between two steps.
    """

    def matches(self, path: Path) -> bool:
        """A folder with both files."""
        return (path / "run.json").is_file() and (path / "requests.jsonl").is_file()

    def read(self, path: Path) -> MeasuredRun:
        """The run in folder ``path``."""
        about, place = read_object(path / "run.json"), path / "requests.jsonl"
        requests = [_request(row, f"{place}:{i}") for i, row in enumerate(json_documents(place), 1)]
        requests.sort(key=lambda r: (r.arrival_s, r.id))
        try:
            return MeasuredRun(
                name=path.name,
                hardware=about["hardware"],
                model=about["model"],
                hf_config=about.get("hf_config"),
                engine=_engine(about),
                requests=tuple(requests),
                clock="engine",
                source=about.get("source", ""),
            )
        except KeyError as error:
            raise InputError(f"{path / 'run.json'}: {error} is missing") from error


def _engine(about: dict[str, Any]) -> dict[str, Any]:
    options = dict(about["engine"])
    options.pop("dtype", None)
    options |= {key: about[key] for key in _OPTIONS if about.get(key) is not None}
    if about.get("num_gpu_blocks") is not None:
        options["num_gpu_blocks_override"] = about["num_gpu_blocks"]
    return {key: value for key, value in options.items() if value is not None}


def _request(row: dict[str, Any], where: str) -> MeasuredRequest:
    try:
        return MeasuredRequest(
            id=int(row["id"]),
            arrival_s=float(row["queued_s"]),
            first_token_s=float(row["first_token_s"]),
            finished_s=float(row["finished_s"]),
            prompt_tokens=int(row["prompt_tokens"]),
            output_tokens=int(row["output_tokens"]),
            prefix_block_ids=tuple(row.get("prefix_block_ids", ())),
        )
    except MALFORMED as error:
        raise InputError(f"{where}: {error!r}") from error
