"""Which tiers an engine has, and what it does with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from servesim.errors import InputError, UnknownNameError
from servesim.runtime.tiers.eviction import EVICTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One memory that keeps KV.

    Attributes:
        name: how results call it.
        capacity_bytes: what it holds.
        bandwidth, write_bandwidth: bytes per second from it and to it; the same if only one is
            given. Transfers in one direction queue up behind each other.
        latency_s: of each transfer.
        pool: engines whose tiers name the same pool share one memory and its bandwidth: those of
            a node, or all; one of its own when empty.
        at: node of the network where it is: its traffic goes over the links between that and the
            instance, together with all else there. Otherwise only those of its pool share it.
        eviction: name of a policy in ``runtime/tiers/eviction``.
        write: ``through``: it gets KV as soon as that is computed; ``back``: when the memory above
            has no more room for it.
        exclusive: what is recalled from it leaves it.

    Raises:
        InputError: a value cannot be used.
        UnknownNameError: no such eviction policy.
    """

    name: str
    capacity_bytes: float
    bandwidth: float
    write_bandwidth: float | None = None
    latency_s: float = 0.0
    pool: str = ""
    at: str = ""
    eviction: str = "lru"
    write: Literal["through", "back"] = "through"
    exclusive: bool = False

    def __post_init__(self) -> None:
        for name in ("capacity_bytes", "bandwidth", "write_bandwidth"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"tier {self.name!r}: {name} must be above 0, not {value}")
        if not 0 <= self.latency_s < math.inf:
            raise InputError(f"tier {self.name!r}: latency_s must be a time, not {self.latency_s}")
        if self.write not in ("through", "back"):
            raise InputError(
                f"tier {self.name!r}: write is 'through' or 'back', not {self.write!r}"
            )
        EVICTIONS.get(self.eviction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """The tiers of an engine, fastest first, and their use.

    Attributes:
        chunk_tokens: tokens that are moved together; whole KV blocks.
        layerwise: a layer can be computed as soon as its own KV is back; else the step waits for
            all of it.
        recall: ``always`` take what is found; ``cheaper``: only if that is expected to take less
            time than to compute it again.
        swap: write what a preempted sequence has computed to the first tier; else only what
            ``write`` says gets there.
        bytes_per_token: of KV, all devices together.
        num_layers: of the model.

    Raises:
        InputError: a value cannot be used.
    """

    tiers: tuple[Tier, ...]
    chunk_tokens: int = 256
    layerwise: bool = True
    recall: Literal["always", "cheaper"] = "always"
    swap: bool = True
    bytes_per_token: float = 0.0
    num_layers: int = 1

    def __post_init__(self) -> None:
        names = [tier.name for tier in self.tiers]
        if len(set(names)) < len(names) or not names:
            raise InputError(f"tiers need names of their own, not {', '.join(names) or 'none'}")
        if self.chunk_tokens < 1:
            raise InputError(f"chunk_tokens must be at least 1, not {self.chunk_tokens}")
        if self.recall not in ("always", "cheaper"):
            raise InputError(f"recall is 'always' or 'cheaper', not {self.recall!r}")

    def of_model(self, bytes_per_token: float, num_layers: int) -> Offload:
        """These tiers for a model's KV."""
        return replace(self, bytes_per_token=bytes_per_token, num_layers=num_layers)


def tiers_of(tables: Sequence[Mapping[str, Any]]) -> tuple[Tier, ...]:
    """Tiers from tables, as a scenario file gives them.

    Raises:
        UnknownNameError: an unknown key.
        InputError: a value is missing or cannot be used.
    """
    known = [field.name for field in fields(Tier)]
    for table in tables:
        for key in table:
            if key not in known:
                raise UnknownNameError("key of a tier", key, known)
        for key in ("name", "capacity_bytes", "bandwidth"):
            if key not in table:
                raise InputError(f"tier {table.get('name', '')!r}: {key} is missing")
    return tuple(Tier(**table) for table in tables)
