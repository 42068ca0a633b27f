"""Measured configurations: one saturated vLLM server each, at steady state (ML.ENERGY v3)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError, UnknownNameError

#: Prompt tokens by task: the data set gives none. Estimates from what the tasks are: GPQA diamond
#: questions, LM Arena conversations, code around a gap, an image or a video with a question.
PROMPT_TOKENS: Mapping[str, int] = {
    "gpqa": 270,
    "lm-arena-chat": 300,
    "sourcegraph-fim": 1500,
    "image-chat": 1000,
    "video-chat": 3000,
}
#: Models whose language model is another's, with the scheme their weights are stored in.
_SAME_AS: Mapping[str, tuple[str, str | None]] = {
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": ("Qwen/Qwen3-30B-A3B-Instruct-2507", None),
    "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16": ("nvidia/NVIDIA-Nemotron-Nano-12B-v2", None),
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8": (
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        "fp8",
    ),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One configuration.

    Attributes:
        gpus, replicas: GPUs of all replicas, and how many of these there are.
        max_num_seqs: requests in the server at a time, as far as they fit.
        batch: of them on average.
        output_tokens: mean length of an answer.
        watts: mean power of all GPUs.
        tokens_per_s: output tokens of all GPUs.
        joules_per_token: output tokens, prefills and all else included.
    """

    model: str
    task: str
    gpu: str
    gpus: int
    replicas: int
    max_num_seqs: int
    batch: float
    output_tokens: float
    watts: float
    tokens_per_s: float
    joules_per_token: float

    @property
    def prompt_tokens(self) -> int:
        """Mean length of a prompt: an estimate.

        Raises:
            UnknownNameError: there is none for the task.
        """
        if self.task not in PROMPT_TOKENS:
            raise UnknownNameError("task", self.task, PROMPT_TOKENS)
        return PROMPT_TOKENS[self.task]

    @property
    def tensor_parallel(self) -> int:
        """GPUs that a model is sharded over, experts included."""
        return self.gpus // self.replicas

    @property
    def step_s(self) -> float:
        """Mean time of a step: each gives every running request a token."""
        return self.batch / self.tokens_per_s

    @property
    def served_as(self) -> tuple[str, str | None]:
        """The model to simulate, and a scheme to quantise it by."""
        return _SAME_AS.get(self.model, (self.model, None))


def read_configurations(path: Path) -> tuple[Measured, ...]:
    """The rows of a CSV file, or of all in a folder.

    Raises:
        InputError: it cannot be read, or lacks a column or value.
    """
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if not files:
            raise InputError(f"{path}: no CSV file in it")
        return tuple(row for file in files for row in read_configurations(file))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(_measured(row) for row in csv.DictReader(file))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error


def _measured(row: Mapping[str, str]) -> Measured:
    seqs = int(row["max_num_seqs"])
    return Measured(
        model=row["model_id"],
        task=row["task"],
        gpu=row["gpu_model"],
        gpus=int(row["num_gpus"]),
        replicas=int(row["data_parallel"] or 1),
        max_num_seqs=seqs,
        batch=float(row["avg_batch_size"] or seqs),
        output_tokens=float(row["avg_output_len"]),
        watts=float(row["avg_power_watts"]),
        tokens_per_s=float(row["output_throughput_tokens_per_sec"]),
        joules_per_token=float(row["energy_per_token_joules"]),
    )
