"""The same instance for all requests of a session."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from servesim.runtime.request import RequestSpec
from servesim.runtime.routers import ROUTERS, Snapshot


@ROUTERS.register("session_affinity")
@dataclass(frozen=True)
class SessionAffinity:
    """The instance of highest hash with the session: stable when others come and go.

    Rendezvous hashing (Thaler, Ravishankar, 1998): only the sessions of an instance that leaves
    move. A request without a session goes by its first prefix block, or else by its own id.
    """

    def choose(self, spec: RequestSpec, instances: Sequence[Snapshot]) -> int:
        """The instance that the session belongs to."""
        key = f"session {spec.session}"
        if spec.session is None:
            blocks = spec.prefix_block_ids
            key = f"prefix {blocks[0]}" if blocks else f"request {spec.id}"
        return max(range(len(instances)), key=lambda i: _hash(f"{key} on {instances[i].name}"))


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
