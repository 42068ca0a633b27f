"""AIPerf's records of requests (``profile_export.jsonl``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.validation.client_run import MALFORMED, ClientLog, Failed, one_line
from servesim.validation.json_files import find_document, json_documents
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.readers import READERS

_RECORDS, _SUMMARY = "profile_export.jsonl", "profile_export_aiperf.json"
#: What a summary has that its records have one by one.
_AVERAGED = {"schema_version", "request_latency"}
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PHASE = "profiling"


@READERS.register("aiperf")
@dataclass(frozen=True)
class AiPerf:
    """A line a request, alone or in the folder of a run's artifacts; or the summary beside it.

    ``metadata.request_start_ns`` is Unix time; ``metrics`` hold ``{"value", "unit"}`` of
    ``time_to_first_token``, ``request_latency``, ``input_sequence_length`` and
    ``output_sequence_length``; what the server counted (``usage_prompt_tokens``, with a chat
    template's, and ``usage_completion_tokens``) comes first. The model's name is in
    ``profile_export_aiperf.json``. Requests of the warm-up are left out; prompts are not kept, so
    no prefix is shared.
    """

    def matches(self, path: Path) -> bool:
        """Records of requests, or a folder or a summary of a run."""
        found = find_document(_records(path)) or find_document(path) or {}
        return {"metadata", "metrics"} <= set(found) or set(found) >= _AVERAGED

    def read(self, path: Path) -> MeasuredRun:
        """The run in ``path``."""
        path = _records(path)
        rows = json_documents(path)
        if set(rows[0]) >= _AVERAGED:
            raise InputError(f"{path}: a summary; give the records of requests ({_RECORDS})")
        try:
            measured = [row for row in rows if _phase(row) == _PHASE]
            outcomes = list(_outcomes(measured))
            model = _model(path)
        except MALFORMED as error:
            raise InputError(f"{path}: no records of AIPerf: {error!r}") from error
        warm = len(rows) - len(measured)
        notes = (f"{warm} requests of the warm-up left out",) if warm else ()
        return ClientLog(_name(path), model, "AIPerf", outcomes, notes).run()


def _records(path: Path) -> Path:
    if path.is_dir():
        return path / _RECORDS
    return path.with_name(_RECORDS) if path.name == _SUMMARY else path


def _name(path: Path) -> str:
    return path.absolute().parent.name if path.name == _RECORDS else path.stem


def _phase(row: Mapping[str, Any]) -> str:
    return str((row.get("metadata") or {}).get("benchmark_phase") or _PHASE)


def _outcomes(rows: Sequence[Mapping[str, Any]]) -> Iterator[MeasuredRequest | Failed]:
    start = min((int(row["metadata"]["request_start_ns"]) for row in rows), default=0)
    for number, row in enumerate(rows):
        error, metrics = row.get("error"), row.get("metrics") or {}
        if error or row["metadata"].get("was_cancelled"):
            yield Failed(number, _reason(error))
        elif "time_to_first_token" not in metrics:
            yield Failed(number, "no time of a first token: answers were not streamed")
        else:
            # Integers first: a float of nanoseconds since 1970 is good to 0.2 us only.
            arrival = (int(row["metadata"]["request_start_ns"]) - start) * 1e-9
            yield MeasuredRequest(
                number,
                arrival,
                arrival + _seconds(metrics["time_to_first_token"]),
                arrival + _seconds(metrics["request_latency"]),
                _tokens(metrics, "usage_prompt_tokens", "input_sequence_length"),
                _tokens(metrics, "usage_completion_tokens", "output_sequence_length"),
            )


def _tokens(metrics: Mapping[str, Any], counted: str, estimated: str) -> int:
    """As the server counted, or else as the client's tokenizer did."""
    return int((metrics.get(counted) or metrics[estimated])["value"])


def _seconds(metric: Mapping[str, Any]) -> float:
    if metric["unit"] not in _SECONDS:
        raise ValueError(f"unit {metric['unit']!r} is none of {', '.join(_SECONDS)}")
    return float(metric["value"]) * _SECONDS[metric["unit"]]


def _reason(error: Mapping[str, Any] | None) -> str:
    if not error:
        return "cancelled"
    kind, message = error.get("type"), error.get("message")
    return one_line(": ".join(str(part) for part in (kind, message) if part))


def _model(path: Path) -> str:
    """The first model's name in the summary beside the records; empty without one."""
    summary = find_document(path.with_name(_SUMMARY)) or {}
    config = summary.get("input_config") or {}
    items = (config.get("models") or {}).get("items") or ()
    names = (config.get("endpoint") or {}).get("model_names") or [one.get("name") for one in items]
    return next((name for name in names if isinstance(name, str)), "")
