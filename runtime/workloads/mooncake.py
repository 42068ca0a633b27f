"""Mooncake's traces: lengths and the hashes of prompt blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.runtime.request import RequestSpec
from servesim.runtime.trace_file import Parser, RequestFile, Row, json_rows, seconds, whole, wholes
from servesim.runtime.workloads import WORKLOADS

_KNOWN = ("timestamp", "input_length", "output_length", "hash_ids")


@WORKLOADS.register("mooncake")
@dataclass(frozen=True, kw_only=True)
class Mooncake(RequestFile):
    """The format of the traces published with Mooncake (FAST 2025): JSON lines.

    ``timestamp`` is in milliseconds; ``hash_ids`` number the prompt's blocks of ``block_size``
    tokens in order of appearance, the last one maybe not full: equal ids mean an equal prefix up to
    that block. A block that is not full is not reused.

    Attributes:
        block_size: tokens of a block that has an id.
    """

    block_size: int = 512

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return json_rows(Path(self.path), _KNOWN)

    def _parser(self) -> Parser[RequestSpec]:
        known = 0  # ids are given out in order

        def parse(row: Row, place: int) -> RequestSpec:
            nonlocal known
            ids, prompt = wholes(row, "hash_ids"), whole(row, "input_length")
            for block in ids:
                if not 0 <= block <= known:
                    raise InputError(
                        f"hash id {block} leaves a gap: the ids so far end at {known - 1}"
                    )
                known = max(known, block + 1)
            if len(ids) != -(-prompt // self.block_size):
                raise InputError(
                    f"{len(ids)} hash_ids for {prompt} tokens in blocks of {self.block_size}"
                )
            return RequestSpec(
                id=place,
                arrival_s=seconds(row, "timestamp") / 1e3,
                prompt_tokens=prompt,
                output_tokens=whole(row, "output_length"),
                prefix_block_ids=ids[: prompt // self.block_size],
                prefix_block_size=self.block_size,
            )

        return parse
