"""GMI's trace, as LMBench replays it: lengths and hashes of pieces of the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.runtime.kv.hashing import PrefixHasher
from servesim.runtime.request import RequestSpec
from servesim.runtime.trace_file import (
    Clock,
    Parser,
    RequestFile,
    Row,
    json_rows,
    whole,
    wholes,
)
from servesim.runtime.workloads import WORKLOADS

_KNOWN = ("timestamp", "input_length", "output_length", "hash_ids")


@WORKLOADS.register("gmi")
@dataclass(frozen=True, kw_only=True)
class Gmi(RequestFile):
    """JSON lines with the fields of Mooncake's, but of another meaning.

    ``timestamp`` is in nanoseconds since 1970 (a text). A hash id stands for a piece of text of a
    fixed number of characters, wherever it is, so that only equal ids *from the start on* mean an
    equal prefix. Pieces have 30 to 36 tokens (33.8 in the mean of the published trace); they count
    as ``block_size`` each, and those beyond the prompt's length are left out.
    """

    block_size: int = 32

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return json_rows(Path(self.path), _KNOWN)

    def _parser(self) -> Parser[RequestSpec]:
        clock, hasher = Clock(), PrefixHasher(1)

        def parse(row: Row, place: int) -> RequestSpec:
            prompt = whole(row, "input_length")
            pieces = wholes(row, "hash_ids")
            if not pieces:
                raise InputError("hash_ids is missing or empty")
            return RequestSpec(
                id=place,
                arrival_s=clock.seconds(_nanoseconds(row) / 1e9),
                prompt_tokens=prompt,
                output_tokens=whole(row, "output_length"),
                prefix_block_ids=hasher.identities(pieces[: prompt // self.block_size]),
                prefix_block_size=self.block_size,
            )

        return parse


def _nanoseconds(row: Row) -> int:
    text = str(row.get("timestamp", ""))
    if not text.isdigit():
        raise InputError(f"timestamp must be a text of nanoseconds, not {text!r}")
    return int(text)
