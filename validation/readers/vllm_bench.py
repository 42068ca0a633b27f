"""Results of ``vllm bench serve --save-result --save-detailed``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.validation.client_run import MALFORMED, ClientLog, Failed, one_line, the_part
from servesim.validation.json_files import find_document, json_documents
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.readers import READERS

#: One entry a request, in each.
_DETAIL = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors")


@READERS.register("vllm_bench")
@dataclass(frozen=True)
class VllmBench:
    """A JSON object a run: one, or with ``--append-result`` one a line.

    Seconds: ``start_times`` by the client's own clock, ``ttfts`` and lists of ``itls`` from there.
    A failed request has an error and no output. Prompts are not kept, so no prefix is shared.

    Attributes:
        part: which of several results, counted from 1.
    """

    part: int | None = None

    def matches(self, path: Path) -> bool:
        """A result of the benchmark, with or without detail."""
        found = find_document(path)
        return found is not None and {"model_id", "num_prompts", "request_throughput"} <= set(found)

    def read(self, path: Path) -> MeasuredRun:
        """The run, or the one of several, in ``path``."""
        results = json_documents(path)
        named = (f"request_rate {r.get('request_rate')}" for r in results)
        result = the_part(results, self.part, str(path), named)
        missing = [key for key in _DETAIL if key not in result]
        if missing:
            raise InputError(
                f"{path}: {', '.join(missing)} missing: benchmark with --save-detailed, by a vLLM "
                "that keeps start_times"
            )
        if others := [key for key in _DETAIL if not isinstance(result[key], list)]:
            raise InputError(f"{path}: {', '.join(others)} must be a list, an entry a request")
        lengths = {key: len(result[key]) for key in _DETAIL}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{path}: lists of unequal lengths: {lengths}")
        try:
            outcomes = list(_outcomes(result))
        except MALFORMED as error:
            raise InputError(f"{path}: {error}") from error
        return ClientLog(path.stem, str(result["model_id"]), "vllm bench serve", outcomes).run()


def _outcomes(result: Mapping[str, Any]) -> Iterator[MeasuredRequest | Failed]:
    columns = zip(*(result[key] for key in _DETAIL), strict=True)
    for number, (prompt, output, ttft, itls, start, error) in enumerate(columns):
        if error or not output:
            yield Failed(number, one_line(error) if error else "no output")
            continue
        first = start + ttft
        yield MeasuredRequest(number, start, first, first + sum(itls), int(prompt), int(output))
