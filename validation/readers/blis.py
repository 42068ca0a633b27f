"""BLIS training runs: vLLM under a load client, a workload file beside its ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.validation.client_run import MALFORMED
from servesim.validation.json_files import read_json
from servesim.validation.measured import MeasuredRequest, MeasuredRun
from servesim.validation.readers import READERS

_SUFFIX = ".json.gz"
_TRUTH = "_ground_truth.json.gz"
_BLOCK = 16
#: The client cycles through this many prompts (the sequence of prompt lengths has this period).
_PROMPTS = 100
#: Lengths compared to find where a broken cycle goes on.
_AHEAD = 20


@READERS.register("blis")
@dataclass(frozen=True)
class Blis:
    """``NAME.json.gz`` (arrivals, lengths, engine options) and ``NAME_ground_truth.json.gz``.

    Two things are reconstructed. The recorded output lengths are re-tokenised text; the engine
    generated a fixed number of tokens for every request, and re-tokenising adds the
    begin-of-sequence token, so that number is the commonest recorded length less one. And prompts
    repeat: a request has the prompt of the one a hundred places before it.
    """

    def matches(self, path: Path) -> bool:
        """A workload file with its ground truth beside it."""
        return path.name.endswith(_SUFFIX) and _truth_path(path).is_file()

    def read(self, path: Path) -> MeasuredRun:
        """The run whose workload file is ``path``."""
        about, truth = read_json(path), read_json(_truth_path(path))
        try:
            return MeasuredRun(
                name=path.name.removesuffix(_SUFFIX),
                hardware="h100_sxm",
                model=about["model_id"],
                hf_config=None,
                engine=_engine(about["config"]),
                requests=_requests(about["requests"], truth),
                clock="server",
                source="inference-sim/training, vLLM 0.15.1 on H100 SXM",
            )
        except MALFORMED as error:
            raise InputError(f"{path}: {error!r}") from error


def _truth_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_SUFFIX) + _TRUTH)


def _engine(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "tensor_parallel_size": config["tensor_parallelism"],
        "max_num_seqs": config["max_num_seqs"],
        "max_num_batched_tokens": config["max_num_batched_tokens"],
        "block_size": config["block_size"],
        "num_gpu_blocks_override": config["kv_blocks_total_gpu"],
        "enable_prefix_caching": True,
    }


def _requests(
    rows: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]
) -> tuple[MeasuredRequest, ...]:
    outputs = Counter(row["output_tokens"] for row in rows).most_common(1)[0][0] - 1
    prompts = _prompt_numbers([row["input_tokens"] for row in rows])
    times = {row["index"]: row for row in truth}
    found = []
    for row, prompt in zip(rows, prompts, strict=True):
        seen = times[row["index"]]
        if row["has_error"] or seen["has_error"]:
            continue
        start = row["arrival_time_us"] * 1e-6
        blocks = row["input_tokens"] // _BLOCK
        found.append(
            MeasuredRequest(
                id=row["index"],
                arrival_s=start,
                first_token_s=start + seen["ttft_s"],
                finished_s=start + seen["e2e_s"],
                prompt_tokens=row["input_tokens"],
                output_tokens=outputs,
                prefix_block_ids=tuple(prompt * 10_000 + i for i in range(blocks)),
            )
        )
    return tuple(found)


def _prompt_numbers(lengths: Sequence[int]) -> list[int]:
    """Which prompt each request has; where the cycle breaks, it goes on at the next fit."""
    cycle = lengths[:_PROMPTS]
    numbers: list[int] = []
    offset = 0
    for i, length in enumerate(lengths):
        if cycle[(i + offset) % len(cycle)] != length:
            offset = _best_offset(cycle, i, lengths[i : i + _AHEAD])
        numbers.append((i + offset) % len(cycle))
    return numbers


def _best_offset(cycle: Sequence[int], position: int, ahead: Sequence[int]) -> int:
    """The shift of ``cycle`` at which it agrees with most of ``ahead`` from ``position`` on."""

    def agreeing(offset: int) -> int:
        return sum(cycle[(position + offset + j) % len(cycle)] == n for j, n in enumerate(ahead))

    return max(range(len(cycle)), key=agreeing)
