"""Engines with KV tiers below them, and requests for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from runtime_runs import request

from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.request import RequestSpec
from servesim.runtime.step import LinearStepModel
from servesim.runtime.tiers.options import Offload, Tier

#: A token of prefill takes 10 ms, a step nothing besides; KV has a byte a token.
MODEL = LinearStepModel(per_token_s=0.01)
SIZE = 4


def tier(name: str = "host", **more: Any) -> Tier:
    return Tier(name=name, **{"capacity_bytes": 1e6, "bandwidth": 1000.0, **more})


def engine(name: str, *tiers: Tier, blocks: int = 1000, **more: Any) -> Instance:
    config = EngineConfig(
        block_size=SIZE, max_num_seqs=4, max_num_batched_tokens=64, async_scheduling=False
    )
    parts: dict[str, Any] = {
        "chunk_tokens": 8,
        "bytes_per_token": 1.0,
        "num_layers": 4,
        "layerwise": False,
    }
    offload = Offload(tiers=tiers, **parts) if tiers else None
    given = {"name": name, "kv_bytes_per_token": 1.0, **more}
    return Instance(config, MODEL, blocks, offload=offload, **given)


def asked(number: int, arrival_s: float, tokens: int, *ids: int, output: int = 1) -> RequestSpec:
    more = {"prefix_block_ids": ids, "prefix_block_size": SIZE}
    return request(number, arrival_s, tokens, output, **more)


def families_of_requests(rng: np.random.Generator) -> list[RequestSpec]:
    times = np.sort(rng.uniform(0, 20, int(rng.integers(20, 40))))
    return [
        asked(
            number,
            float(time),
            int(rng.integers(10, 90)),
            *range(1000 * int(family), 1000 * int(family) + 12),
            output=int(rng.integers(40, 60)),
        )
        for number, (time, family) in enumerate(
            zip(times, rng.integers(0, 5, len(times)), strict=True)
        )
    ]
