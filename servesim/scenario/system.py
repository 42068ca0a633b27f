"""What is around the engines: the network, who hands over to whom, failures, scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from servesim.errors import InputError, UnknownNameError
from servesim.graph.opgraph import OpGraph
from servesim.hardware import load as hardware
from servesim.hardware.link import Link
from servesim.hardware.topologies import TOPOLOGIES, build_topology
from servesim.hardware.topology import Topology
from servesim.runtime.autoscaling import Autoscaling
from servesim.runtime.failures import Failures, Outage
from servesim.runtime.frontend import VLLM, FrontEnd
from servesim.runtime.handover import HandoverOptions
from servesim.runtime.instance import Instance as Engine
from servesim.runtime.network.collective_cost import TopologyCollectives
from servesim.runtime.roles import Role
from servesim.runtime.routers import ROUTERS
from servesim.runtime.system import System
from servesim.scenario.load import Layer, section
from servesim.scenario.sections import Instance


@dataclass(frozen=True, slots=True)
class NetworkSection:
    """``[network]``: joins the instances.

    Attributes:
        kind: a shape of ``hardware/topologies.py``, or ``links`` for those given.
        bandwidth: B/s of an instance's link, one way, all its devices together.
        latency: seconds from one end to the other.
        shape: sides of a mesh or torus.
        fanout, uplink, spines, nic: of trees; see ``hardware/topologies.py``.
        links: tables with ``between`` (two names: of instances, or others for switches),
            ``bandwidth`` and ``latency``.
    """

    kind: str = "switch"
    bandwidth: float = 0.0
    latency: float = 0.0
    shape: tuple[int, ...] | None = None
    fanout: int | None = None
    uplink: float | None = None
    spines: int | None = None
    nic: float | None = None
    links: tuple[Mapping[str, Any], ...] = ()

    def topology(self, names: Sequence[str]) -> Topology:
        """The network of instances called ``names``.

        Raises:
            ServesimError: no such shape, or options that it has not.
        """
        if self.kind == "links" or self.links:
            return self._given(names)
        if self.kind not in TOPOLOGIES:
            raise UnknownNameError("[network] kind", self.kind, (*TOPOLOGIES, "links"))
        options = {
            key: getattr(self, key)
            for key in ("shape", "fanout", "uplink", "spines", "nic")
            if getattr(self, key) is not None
        }
        table = {"name": "network", "bandwidth": self.bandwidth, "latency": self.latency}
        link = hardware.build(Link, table, "[network]")
        return build_topology(self.kind, names, link, **options)

    def _given(self, names: Sequence[str]) -> Topology:
        edges = []
        for table in self.links:
            rest = {key: value for key, value in table.items() if key != "between"}
            ends = table.get("between")
            if not (isinstance(ends, list | tuple) and len(ends) == 2):
                raise InputError(f"[network] links: between must name two ends, not {ends!r}")
            link = {"name": "network", "latency": 0.0, **rest}
            edges.append((*map(str, ends), hardware.build(Link, link, "[network] links")))
        nodes = dict.fromkeys([*names, *(end for a, b, _ in edges for end in (a, b))])
        return Topology(tuple(nodes), tuple(edges))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class DisaggregationSection:
    """``[disaggregation]``: how KV goes from prefill to decode instances.

    Attributes:
        transfer: after the prefill, or layer by layer while it runs.
        first_token: the instance that gives it; see ``HandoverOptions``.
        router: kind of router that chooses the decode instance.
    """

    transfer: Literal["after_prefill", "layerwise"] = "after_prefill"
    first_token: Literal["decode", "prefill"] = "decode"
    router: str = "least_loaded"


@dataclass(frozen=True, slots=True)
class FailuresSection:
    """``[failures]``: of instances.

    Attributes:
        outages: tables with ``instance``, ``at_s`` and ``down_s``.
        mtbf_s, mttr_s, seed: drawn failures; see ``Failures``.
    """

    outages: tuple[Mapping[str, Any], ...] = ()
    mtbf_s: float | None = None
    mttr_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ClientSection:
    """``[client]``: those who send the requests.

    Attributes:
        cancel_after_s: seconds after its arrival at which a request is cancelled that is not
            answered and does not say otherwise; None if never.
    """

    cancel_after_s: float | None = None

    def __post_init__(self) -> None:
        if self.cancel_after_s is not None and not self.cancel_after_s >= 0:
            raise InputError(f"[client] cancel_after_s must not be negative: {self.cancel_after_s}")


@dataclass(frozen=True, slots=True)
class Around:
    """The sections about what is around the engines.

    Attributes:
        network: None when there is none.
        disaggregation: None when no instance hands over to others, or as they do by default.
        autoscaling: None when all instances always serve.
        frontend: None when clients talk to the engines themselves.
        client: how long they wait.
    """

    network: NetworkSection | None = None
    disaggregation: DisaggregationSection | None = None
    failures: FailuresSection = field(default_factory=FailuresSection)
    autoscaling: Autoscaling | None = None
    frontend: FrontEnd | None = None
    client: ClientSection = field(default_factory=ClientSection)

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Around:
        """From the layers of a scenario.

        Raises:
            InputError: a key or value is refused.
        """
        given = {name for layer in layers for name in layer.tables}
        return cls(
            section(NetworkSection(), "network", layers) if "network" in given else None,
            section(DisaggregationSection(), "disaggregation", layers)
            if "disaggregation" in given
            else None,
            section(FailuresSection(), "failures", layers),
            section(Autoscaling(), "autoscaling", layers) if "autoscaling" in given else None,
            section(VLLM, "frontend", layers) if "frontend" in given else None,
            section(ClientSection(), "client", layers),
        )

    def system(self, engines: Sequence[Engine]) -> System:
        """What the runtime needs to know, for these engines.

        Raises:
            ServesimError: a name, shape or value that cannot be used.
        """
        names = [engine.name for engine in engines]
        if self.disaggregation and all(engine.role is Role.BOTH for engine in engines):
            raise InputError("[disaggregation] needs instances with the roles prefill and decode")
        if self.autoscaling and len(engines) == 1:
            raise InputError("[autoscaling] needs several instances: a count of an [[instance]]")
        split = self.disaggregation or DisaggregationSection()
        failures = self.failures
        outages = tuple(
            hardware.build(Outage, dict(table), "[failures] outages") for table in failures.outages
        )
        return System(
            self.network.topology(names) if self.network else None,
            HandoverOptions(split.transfer, split.first_token, ROUTERS.build(split.router)),
            Failures(outages, failures.mtbf_s, failures.mttr_s, failures.seed),
            self.autoscaling,
            self.frontend,
            self.client.cancel_after_s,
        )


def serving(instance: Instance, graph: OpGraph) -> dict[str, Any]:
    """Fields of an engine that others must know: role, model, group, and the size of its KV."""
    ranks = graph.tensor_parallel_size
    return {
        "role": Role(instance.role),
        "model": instance.model.id,
        "group": instance.name,
        "kv_bytes_per_token": float(graph.kv_bytes_per_token * ranks),
        "state_bytes": float(graph.state_bytes_per_sequence * ranks),
        "num_layers": max(graph.num_layers, 1),
    }


def topology_collectives(table: Mapping[str, Any], link: Link | None) -> TopologyCollectives:
    """The collectives of devices joined as ``[hardware] topology`` says.

    Raises:
        InputError: no link, or a key or value that cannot be used.
        UnknownNameError: no such shape.
    """
    options = dict(table)
    kind, devices = options.pop("kind", "switch"), options.pop("devices", None)
    if link is None:
        raise InputError("[hardware] topology needs a link: the device has none of its own")
    if not isinstance(devices, int) or devices < 2:
        raise InputError(f"[hardware] topology: devices must be at least 2, not {devices!r}")
    members = tuple(f"device-{number}" for number in range(devices))
    topology = build_topology(str(kind), members, link, **options)
    group = int(options.get("fanout", 1))
    return TopologyCollectives(topology, members, group)


#: Kinds of network that ``[network]`` can name.
NETWORKS = (*TOPOLOGIES, "links")
