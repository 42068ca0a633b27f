"""Conversations in the format of ShareGPT: each one a session of turns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from servesim.errors import InputError, UnknownNameError
from servesim.runtime.lengths import require_positive
from servesim.runtime.sessions import Session, SessionSource, Turn
from servesim.runtime.streams import stream
from servesim.runtime.trace_file import whole_text
from servesim.runtime.workloads import WORKLOADS

#: Who speaks, under the names that the published files use.
_SPEAKERS = {
    "human": "user", "user": "user", "system": "system", "gpt": "model", "chatgpt": "model",
    "assistant": "model", "bing": "model", "bard": "model",
}  # fmt: skip


@WORKLOADS.register("sharegpt")
@dataclass(frozen=True, kw_only=True)
class ShareGpt:
    """A JSON list of ``{"id", "conversations": [{"from": "human" | "gpt", "value": text}, ...]}``.

    Answers have their recorded lengths. The file has no times: conversations start at random, and
    the next question comes a while after the answer. What is said before the first question is
    left out, and so is a last question without an answer.

    Attributes:
        path: the file; one that ends in .gz is unpacked.
        rate: conversations that start per second.
        think_time_s: mean time from an answer to the next question; exponential.
        max_requests: keep the first so many conversations.
        max_turns: keep the first so many questions of each.
        tokenizer: a ``tokenizer.json`` to count tokens with.
        characters_per_token: counts them without (about 4 in English text).
        seed: fixes everything random.
    """

    path: Path
    rate: float = 1.0
    think_time_s: float = 10.0
    max_requests: int | None = None
    max_turns: int | None = None
    tokenizer: Path | None = None
    characters_per_token: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "characters_per_token", "max_requests", "max_turns"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if self.think_time_s < 0:
            raise InputError(f"think_time_s must not be negative, not {self.think_time_s}")

    def source(self) -> SessionSource:
        """The requests as answers allow them."""
        return SessionSource(self.sessions())

    def sessions(self) -> list[Session]:
        """A session for each conversation.

        Raises:
            InputError: the file cannot be read or used; the message names the conversation.
        """
        count = self._counter()
        thinking = stream(self.seed, "think_time_s")
        talks: list[tuple[Turn, ...]] = []
        for number, entry in enumerate(self._entries()):
            try:
                said = _said(entry, count)[: self.max_turns]
            except InputError as error:
                raise InputError(f"{self.path}: conversation {number}: {error}") from error
            if said and len(talks) != self.max_requests:
                talks.append(_turns(said, thinking.exponential(self.think_time_s, len(said))))
        if not talks:
            raise InputError(f"{self.path} has no conversations")
        starts = stream(self.seed, "arrivals").exponential(1 / self.rate, len(talks)).cumsum()
        return [Session(float(start), turns) for start, turns in zip(starts, talks, strict=True)]

    def _entries(self) -> list[Any]:
        text = whole_text(Path(self.path))
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{self.path}:{error.lineno}: not JSON: {error}") from error
        if not isinstance(entries, list):
            raise InputError(f"{self.path}: not a list of conversations")
        return entries

    def _counter(self) -> Callable[[str], int]:
        if self.tokenizer is None:
            return lambda text: max(1, math.ceil(len(text) / self.characters_per_token))
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.tokenizer))
        except Exception as error:  # what the library raises
            raise InputError(f"cannot read tokenizer {self.tokenizer}: {error}") from error
        return lambda text: max(1, len(tokenizer.encode(text, add_special_tokens=False)))


def _said(entry: Any, count: Callable[[str], int]) -> list[tuple[int, int]]:
    """Tokens of each question, with what else was said before its answer, and of the answer."""
    talk = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(talk, list):
        raise InputError("no list conversations")
    said: list[tuple[int, int]] = []
    asked = answered = 0
    for message in talk:
        speaker, text = _message(message)
        if speaker != "model":
            if answered:
                said.append((asked, answered))
                asked = answered = 0
            asked += count(text)
        elif asked:
            answered += count(text)
    return [*said, (asked, answered)] if answered else said


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise InputError(f"a message must be an object, not {message!r}")
    speaker, text = message.get("from"), message.get("value")
    if speaker not in _SPEAKERS:
        raise UnknownNameError("speaker", str(speaker), _SPEAKERS)
    if not isinstance(text, str):
        raise InputError(f"value must be a text, not {text!r}")
    return _SPEAKERS[speaker], text


def _turns(
    said: Sequence[tuple[int, int]], thinking: np.typing.NDArray[np.float64]
) -> tuple[Turn, ...]:
    first, *rest = said
    return (
        Turn(*first),
        *(
            Turn(asked, answered, number, (number,), float(thinking[number]))
            for number, (asked, answered) in enumerate(rest)
        ),
    )
