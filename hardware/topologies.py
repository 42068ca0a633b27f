"""Shapes of networks by name, each built from its endpoints and a link.

Endpoints are whatever sends and receives (devices, instances); switches are named after where
they stand. A link's bandwidth is that of one direction, both are usable at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.link import Link
from servesim.hardware.topology import Topology

Edge = tuple[str, str, Link]


def switch(nodes: Sequence[str], link: Link) -> Topology:
    """A star: every endpoint has one link to a switch that never blocks (NVSwitch, one rail).

    The latency of ``link`` is from end to end, so each of the two hops has half of it.
    """
    return Topology((*nodes, "switch"), tuple(_leaves("switch", nodes, link)))


def full(nodes: Sequence[str], link: Link) -> Topology:
    """A link of its own for every pair (NVLink between pairs, all to all)."""
    return Topology.fully_connected(nodes, link)


def ring(nodes: Sequence[str], link: Link) -> Topology:
    """Each endpoint joined to the next, the last to the first."""
    return torus(nodes, link, (len(nodes),))


def mesh(nodes: Sequence[str], link: Link, shape: Sequence[int] = ()) -> Topology:
    """A grid of ``shape`` (as square as can be by default), neighbours joined."""
    return _grid(nodes, link, shape, wrap=False)


def torus(nodes: Sequence[str], link: Link, shape: Sequence[int] = ()) -> Topology:
    """A grid of ``shape`` whose ends meet (TPU pods)."""
    return _grid(nodes, link, shape, wrap=True)


def tree(nodes: Sequence[str], link: Link, fanout: int = 4, uplink: float = 1.0) -> Topology:
    """Switches with ``fanout`` endpoints each under one root (PCIe switches under a host bridge).

    Args:
        uplink: bandwidth of the link from a switch to the root, in links of an endpoint.
    """
    return _levels(nodes, link, fanout, uplink)


def fat_tree(nodes: Sequence[str], link: Link, fanout: int = 4, spines: int = 0) -> Topology:
    """Leaf switches with ``fanout`` endpoints each, every leaf joined to every spine.

    Args:
        spines: how many; each takes one link of an endpoint from every leaf. With as many as
            ``fanout`` (the default) nothing is oversubscribed. A transfer takes one spine, of
            which all are alike, so they count as one of their joint bandwidth.
    """
    return _levels(nodes, link, fanout, float(spines or fanout))


def multi_node(nodes: Sequence[str], link: Link, fanout: int = 8, nic: float = 0.5) -> Topology:
    """Servers of ``fanout`` endpoints on a switch each, joined by one network.

    Args:
        nic: bandwidth of a server's way out, in links of an endpoint.
    """
    return tree(nodes, link, fanout, nic)


TOPOLOGIES: Mapping[str, Callable[..., Topology]] = {
    "switch": switch,
    "full": full,
    "ring": ring,
    "mesh": mesh,
    "torus": torus,
    "tree": tree,
    "fat_tree": fat_tree,
    "multi_node": multi_node,
}


def build_topology(kind: str, nodes: Sequence[str], link: Link, **options: object) -> Topology:
    """The topology called ``kind``.

    Raises:
        UnknownNameError: no such topology.
        InputError: an option it has not, or a value that cannot be used.
    """
    if kind not in TOPOLOGIES:
        raise UnknownNameError("topology", kind, TOPOLOGIES)
    try:
        return TOPOLOGIES[kind](nodes, link, **options)
    except TypeError as error:
        raise InputError(f"topology {kind!r}: {error}") from error


def _leaves(switch_name: str, nodes: Sequence[str], link: Link) -> list[Edge]:
    half = Link(link.name, link.bandwidth, link.latency / 2)
    return [(node, switch_name, half) for node in nodes]


def _levels(nodes: Sequence[str], link: Link, fanout: int, uplink: float) -> Topology:
    if fanout < 1:
        raise InputError(f"fanout must be at least 1, not {fanout}")
    up = Link(f"{link.name} up", link.bandwidth * uplink, link.latency / 2)
    groups = [nodes[i : i + fanout] for i in range(0, len(nodes), fanout)]
    edges: list[Edge] = []
    for number, group in enumerate(groups):
        edges += _leaves(f"switch-{number}", group, link)
        edges.append((f"switch-{number}", "root", up))
    switches = [f"switch-{number}" for number in range(len(groups))]
    return Topology((*nodes, *switches, "root"), tuple(edges))


def _grid(nodes: Sequence[str], link: Link, shape: Sequence[int], *, wrap: bool) -> Topology:
    shape = tuple(shape) or _square(len(nodes))
    if math.prod(shape) != len(nodes) or min(shape) < 1:
        raise InputError(f"a grid of {'x'.join(map(str, shape))} does not hold {len(nodes)}")
    at = dict(zip(product(*map(range, shape)), nodes, strict=True))
    edges: list[Edge] = []
    for axis, length in enumerate(shape):
        for place in product(*(range(1 if a == axis else n) for a, n in enumerate(shape))):
            line = [at[(*place[:axis], i, *place[axis + 1 :])] for i in range(length)]
            edges += [(a, b, link) for a, b in pairwise(line)]
            if wrap and length > 2:
                edges.append((line[-1], line[0], link))
    return Topology(tuple(nodes), tuple(edges))


def _square(count: int) -> tuple[int, int]:
    """Two factors of ``count``, as near to each other as can be."""
    low = next(i for i in range(math.isqrt(count), 0, -1) if count % i == 0)
    return low, count // low
