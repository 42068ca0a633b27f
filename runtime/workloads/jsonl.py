"""Requests from a file of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.runtime.request import RequestSpec
from servesim.runtime.trace_file import Parser, RequestFile, Row, json_rows, seconds, whole, wholes
from servesim.runtime.workloads import WORKLOADS

_TOKEN_IDS = ("token_ids", "prompt_token_ids")
_KNOWN = (
    "id", "arrival_s", "prompt_tokens", "output_tokens", "prefix_block_ids", *_TOKEN_IDS,
    "priority", "model", "session", "images", "max_tokens", "cancel_after_s",
)  # fmt: skip


@WORKLOADS.register("jsonl")
@dataclass(frozen=True, kw_only=True)
class JsonLines(RequestFile):
    """One request a line, in order of arrival; nothing is simulated if a line is wrong.

    A line has ``arrival_s``, ``prompt_tokens`` and ``output_tokens``; it may have ``id`` (the
    line's place otherwise), ``priority`` and either ``prefix_block_ids`` (equal ids: equal prefix
    up to that block) or ``prompt_token_ids``, which also give the prompt's length; ``token_ids``
    is another name for them. ``model`` names the model that must answer, ``session`` (a number)
    whose conversation it is. ``images`` lists the tokens of the prompt that each of its images
    takes, at its start. ``max_tokens`` is where the answer would have ended at the latest: a stop
    token ends it before. ``cancel_after_s`` seconds after its arrival the client gives it up.

    Attributes:
        block_size: tokens of each block in ``prefix_block_ids``, or hashed of the token ids.
        max_model_len: refuse a line whose prompt leaves no token of the context for the answer.
    """

    block_size: int = 16
    max_model_len: int | None = None

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return json_rows(Path(self.path), _KNOWN)

    def _parser(self) -> Parser[RequestSpec]:
        hasher = PrefixHasher(self.block_size)
        return lambda row, place: self._request(row, place, hasher)

    def _request(self, row: Row, place: int, hasher: PrefixHasher) -> RequestSpec:
        given, ids = dict(row), wholes(row, "prefix_block_ids")
        tokens = [name for name in _TOKEN_IDS if name in given]
        if tokens:
            if len(tokens) > 1 or "prefix_block_ids" in given:
                raise InputError(f"give one of {', '.join(('prefix_block_ids', *_TOKEN_IDS))}")
            prompt = wholes(row, tokens[0])
            if given.setdefault("prompt_tokens", len(prompt)) != len(prompt):
                length = given["prompt_tokens"]
                raise InputError(f"prompt_tokens is {length}, but there are {len(prompt)} ids")
            ids = hasher.identities(prompt)
        prompt_tokens = whole(given, "prompt_tokens")
        if self.max_model_len is not None and prompt_tokens >= self.max_model_len:
            raise InputError(
                f"prompt_tokens {prompt_tokens} leaves no room for an answer: "
                f"max_model_len is {self.max_model_len}"
            )
        return RequestSpec(
            id=whole(given, "id", place),
            arrival_s=seconds(given, "arrival_s"),
            prompt_tokens=prompt_tokens,
            output_tokens=whole(given, "output_tokens"),
            prefix_block_ids=ids,
            prefix_block_size=self.block_size,
            priority=whole(given, "priority", 0),
            model=_text(given, "model"),
            session=whole(given, "session") if "session" in given else None,
            images=wholes(given, "images"),
            max_tokens=whole(given, "max_tokens") if "max_tokens" in given else None,
            cancel_after_s=seconds(given, "cancel_after_s") if "cancel_after_s" in given else None,
        )


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} must be text, not {value!r}")
    return value
