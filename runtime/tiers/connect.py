"""Which tiers send over the network, and which way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from servesim.errors import UnknownNameError, UnsupportedError
from servesim.runtime.network.fabric import Path
from servesim.runtime.network.flows import Network
from servesim.runtime.tiers.hierarchy import Hierarchy, Ways
from servesim.runtime.tiers.options import Tier
from servesim.runtime.tiers.ways import FlowQueue
from servesim.runtime.transfers import Transfers


def connect_tiers(hierarchies: Sequence[tuple[str, Hierarchy]], transfers: Transfers) -> None:
    """Put the traffic of tiers that share a link with anything else on the network.

    These are the tiers at a node of it, and those of several engines. Each engine has one transfer
    at a time in each direction of a tier, a flow over the links between them and the tier's own.
    Tiers of engines that cannot wait for a network keep a link on which transfers queue up.

    Args:
        hierarchies: each with the node where its engine is.

    Raises:
        UnknownNameError: a tier is at a node that the network has not.
        UnsupportedError: no way leads there, or its engine cannot wait for a network.
    """
    uses = Counter(id(store) for _, tiers in hierarchies for store in tiers.stores)
    fixed = {id(store) for _, one in hierarchies if not one.can_wait for store in one.stores}
    links: dict[int, tuple[int, int]] = {}
    for engine, tiers in hierarchies:
        above = engine
        for place, store in enumerate(tiers.stores):
            at = store.tier.at
            if at and id(store) in fixed:
                raise UnsupportedError(
                    f"tier {store.tier.name!r} at {at!r}: pipelines and ranks in lock step "
                    "cannot wait for a network"
                )
            if at or (uses[id(store)] > 1 and id(store) not in fixed):
                if id(store) not in links:
                    links[id(store)] = _own_links(store.tier, transfers.network)
                own = links[id(store)]
                tiers.connect(place, _ways(engine, above, store.tier, own, transfers))
            above = at or above


def _own_links(tier: Tier, network: Network) -> tuple[int, int]:
    """Numbers of the links from a tier and to it."""
    return network.add_link(tier.bandwidth), network.add_link(
        tier.write_bandwidth or tier.bandwidth
    )


def _ways(engine: str, above: str, tier: Tier, own: tuple[int, int], transfers: Transfers) -> Ways:
    """The ways between a tier and an engine, and from what is above it."""
    fabric = transfers.network.fabric
    if tier.at and tier.at not in fabric.topology.nodes:
        raise UnknownNameError("node of the network", tier.at, fabric.topology.nodes)

    def queue(start: str, end: str, link: int) -> FlowQueue:
        crossed = fabric.path(start, end) if tier.at else Path((), 0.0)
        path = Path((*crossed.links, link), crossed.latency_s + tier.latency_s)
        return FlowQueue(transfers, path)

    reads, writes = own
    return Ways(
        queue(tier.at, engine, reads),
        queue(engine, tier.at, writes),
        queue(above, tier.at, writes),
    )
