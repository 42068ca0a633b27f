"""Requests from a file of JSON lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.runtime.request import RequestSpec
from servesim.runtime.source import OpenSource
from servesim.runtime.workloads import WORKLOADS

_LENGTHS = ("prompt_tokens", "output_tokens")
_TOKEN_IDS = ("token_ids", "prompt_token_ids")
_KNOWN = ("id", "arrival_s", *_LENGTHS, "prefix_block_ids", *_TOKEN_IDS, "priority")


@WORKLOADS.register("jsonl")
@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """One request a line, in order of arrival; nothing is simulated if a line is wrong.

    A line has ``arrival_s``, ``prompt_tokens`` and ``output_tokens``; it may have ``id`` (the
    line's place otherwise), ``priority`` and either ``prefix_block_ids`` (equal ids: equal prefix
    up to that block) or ``prompt_token_ids``, which also give the prompt's length; ``token_ids``
    is another name for them.

    Attributes:
        path: the file; one that ends in .gz is unpacked.
        block_size: tokens of each block in ``prefix_block_ids``, or hashed of the token ids.
        max_requests: read no more than the first so many.
        max_model_len: refuse a line whose prompt leaves no token of the context for the answer.
    """

    path: Path
    block_size: int = 16
    max_requests: int | None = None
    max_model_len: int | None = None

    def source(self) -> OpenSource:
        """The requests in order of arrival."""
        requests = self.requests()
        return OpenSource(requests, len(requests))

    def requests(self) -> list[RequestSpec]:
        """All requests of the file.

        Raises:
            InputError: it cannot be read, is empty, or a line cannot be used.
        """
        hasher = PrefixHasher(self.block_size)
        requests: list[RequestSpec] = []
        for number, line in self._lines():
            if len(requests) == self.max_requests:
                break
            try:
                spec = self._request(line, len(requests), hasher)
                if requests and spec.arrival_s < requests[-1].arrival_s:
                    before = requests[-1].arrival_s
                    raise InputError(f"arrival_s {spec.arrival_s} is before that above, {before}")
            except InputError as error:
                raise InputError(f"{self.path}:{number}: {error}") from error
            requests.append(spec)
        if not requests:
            raise InputError(f"{self.path} has no requests")
        return requests

    def _lines(self) -> Iterator[tuple[int, str]]:
        path = Path(self.path)
        opened = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rt", encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, line
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise InputError(f"cannot read {path}: {error}") from error

    def _request(self, line: str, place: int, hasher: PrefixHasher) -> RequestSpec:
        given = _object(line)
        ids = _ints(given, "prefix_block_ids")
        tokens = [name for name in _TOKEN_IDS if name in given]
        if tokens:
            if len(tokens) > 1 or "prefix_block_ids" in given:
                raise InputError(f"give one of {', '.join(('prefix_block_ids', *_TOKEN_IDS))}")
            prompt = _ints(given, tokens[0])
            if given.setdefault("prompt_tokens", len(prompt)) != len(prompt):
                length = given["prompt_tokens"]
                raise InputError(f"prompt_tokens is {length}, but there are {len(prompt)} ids")
            ids = hasher.identities(prompt)
        for name in ("arrival_s", *_LENGTHS):
            if name not in given:
                raise InputError(f"{name} is missing")
        prompt_tokens = _int(given, "prompt_tokens")
        if self.max_model_len is not None and prompt_tokens >= self.max_model_len:
            raise InputError(
                f"prompt_tokens {prompt_tokens} leaves no room for an answer: "
                f"max_model_len is {self.max_model_len}"
            )
        return RequestSpec(
            id=_int(given, "id", place),
            arrival_s=_number(given, "arrival_s"),
            prompt_tokens=prompt_tokens,
            output_tokens=_int(given, "output_tokens"),
            prefix_block_ids=ids,
            prefix_block_size=self.block_size,
            priority=_int(given, "priority", 0),
        )


def _object(line: str) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError(f"not a JSON object: {line.strip()[:60]}")
    for name in given:
        if name not in _KNOWN:
            raise UnknownNameError("field", name, _KNOWN)
    return given


def _int(given: dict[str, Any], name: str, default: int | None = None) -> int:
    value = given.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    return value


def _number(given: dict[str, Any], name: str) -> float:
    value = given[name]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{name} must be a number, not {value!r}")
    return float(value)


def _ints(given: dict[str, Any], name: str) -> tuple[int, ...]:
    values = given.get(name, [])
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InputError(f"{name} must be a list of whole numbers")
    return tuple(values)
