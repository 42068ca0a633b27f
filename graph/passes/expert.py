"""Experts of a tensor-parallel shard dealt on to data-parallel ranks, and the exchanges between."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np

from servesim.errors import InputError
from servesim.graph.expert_load import ExpertLoad
from servesim.graph.expert_placement import place_experts
from servesim.graph.op import Op
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.exchange import Exchange
from servesim.graph.ops.experts import Experts, PooledExperts
from servesim.graph.routing import Routing
from servesim.graph.routing.uniform import Uniform

#: vLLM's ``all2all_backend``: every rank sees all tokens, or only those of its experts.
GATHERING = ("allgather_reducescatter", "naive")
ALL_TO_ALL = ("deepep_high_throughput", "deepep_low_latency", "pplx")


@dataclass(frozen=True, slots=True)
class ExpertOptions:
    """How experts are spread over an engine's devices, under vLLM's names.

    Attributes:
        data_parallel_size: ranks that share the experts beside the tensor-parallel ones.
        enable_expert_parallel: whole experts on each device, not slices of each.
        all2all_backend: how tokens reach experts on other data-parallel ranks.
        expert_placement_strategy: which experts a device holds.
        enable_eplb: place experts by their load.
        num_redundant_experts: replicas of busy experts.
        routing: how experts are chosen.
    """

    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    all2all_backend: str = GATHERING[0]
    expert_placement_strategy: str = "linear"
    enable_eplb: bool = False
    num_redundant_experts: int = 0
    routing: Routing = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        known = (*GATHERING, *ALL_TO_ALL)
        if self.all2all_backend not in known:
            raise InputError(f"all2all_backend {self.all2all_backend!r} is none of {known}")
        if self.enable_eplb and not self.enable_expert_parallel:
            raise InputError("enable_eplb needs enable_expert_parallel")
        if self.num_redundant_experts and not self.enable_eplb:
            raise InputError("num_redundant_experts needs enable_eplb")


def has_experts(graph: OpGraph) -> bool:
    """Whether the model is a mixture of experts."""
    return any(isinstance(op.spec, Experts) for op, _ in graph.weighted_ops())


def spread_experts(graph: OpGraph, options: ExpertOptions) -> OpGraph:
    """``graph``, one tensor-parallel rank's, with its experts shared by the data-parallel ranks.

    A graph without experts, or whose experts are neither shared nor chosen unevenly, stays as is.

    Raises:
        UnsupportedError: the experts, or their width, do not divide.
        InputError: options that contradict each other.
    """
    plain = isinstance(options.routing, Uniform) and not options.enable_expert_parallel
    if not has_experts(graph) or (plain and options.data_parallel_size == 1):
        return graph
    loads = _loads(graph, options)
    blocks = tuple(_block(block, graph, options, loads) for block in graph.blocks)
    spread = replace(graph, blocks=blocks)
    saved = graph.operator_weight_bytes - spread.operator_weight_bytes
    spread = replace(spread, weight_bytes=graph.weight_bytes - saved)
    spread.lint()
    return spread


def _loads(graph: OpGraph, options: ExpertOptions) -> dict[str, ExpertLoad]:
    """The load of each block's experts, by the block's name."""
    held = {
        block.name: (block, op.spec)
        for block in graph.blocks
        for op in block.ops
        if isinstance(op.spec, Experts)
    }
    layers = sorted(layer for block, _ in held.values() for layer in block.layers)
    ranks = graph.tensor_parallel_size * options.data_parallel_size
    found = {}
    for name, (block, spec) in held.items():
        chances = options.routing.chances(len(layers), spec.experts, spec.top_k)
        own = chances[np.searchsorted(layers, block.layers)]
        found[name] = place_experts(
            own,
            ranks if options.enable_expert_parallel else 1,
            strategy=options.expert_placement_strategy,
            enable_eplb=options.enable_eplb,
            num_redundant_experts=options.num_redundant_experts,
        )
    return found


def _block(
    block: Block, graph: OpGraph, options: ExpertOptions, loads: dict[str, ExpertLoad]
) -> Block:
    ops: list[Op] = []
    renamed: dict[str, str] = {}
    for op in block.ops:
        reads = tuple(renamed.get(name, name) for name in op.inputs)
        if not isinstance(op.spec, Experts):
            ops.append(replace(op, inputs=reads))
            continue
        pooled = _pooled(op.spec, graph.tensor_parallel_size, options, loads[block.name])
        if options.data_parallel_size == 1:
            ops.append(replace(op, spec=pooled, inputs=reads))
            continue
        there, back = _exchanges(op.spec, graph, options)
        out, home = f"{op.name}_dispatch", f"{op.name}_combine"
        ops += [
            Op(out, there, reads, op.scope, "expert_dispatch"),
            replace(op, spec=pooled, inputs=(out,)),
            Op(home, back, (op.name,), op.scope, "expert_combine"),
        ]
        renamed[op.name] = home
    return replace(block, ops=tuple(ops))


def _pooled(
    spec: Experts, tensor_ranks: int, options: ExpertOptions, load: ExpertLoad
) -> PooledExperts:
    """The experts of one device, whatever it was before."""
    replicas = options.data_parallel_size
    if options.enable_expert_parallel:
        held = (spec.experts + options.num_redundant_experts) // (tensor_ranks * replicas)
        local = replace(spec, local_experts=held, parallel="expert")
    else:
        local = spec.local(replicas) if replicas > 1 else spec
    known = {one.name: getattr(local, one.name) for one in fields(Experts)}
    gathered = options.all2all_backend in GATHERING or replicas == 1
    return PooledExperts(**known, replicas=replicas, gathered=gathered, load=load)


def _exchanges(spec: Experts, graph: OpGraph, options: ExpertOptions) -> tuple[Exchange, Exchange]:
    """Tokens to the experts and their results back.

    Gathering: each tensor-parallel rank exchanges with its peers. All to all: each sends its share
    of the tokens to every device that holds one of their experts.
    """
    replicas = options.data_parallel_size
    if options.all2all_backend in GATHERING or not options.enable_expert_parallel:
        common = (spec.hidden, replicas, replicas)
        return (
            Exchange("all_gather", *common, dtype=graph.dtype),
            Exchange("reduce_scatter", *common, dtype=graph.dtype),
        )
    ranks = replicas * graph.tensor_parallel_size
    both = Exchange(
        "all_to_all", spec.hidden, ranks, replicas, _copies(spec, ranks), dtype=graph.dtype
    )
    return both, both


def _copies(spec: Experts, ranks: int) -> float:
    """Expected ranks among ``ranks`` that hold an expert of a token, chosen uniformly."""
    apart, here = 1.0, spec.experts / ranks
    for drawn in range(spec.top_k):
        apart *= max(0.0, (spec.experts - here - drawn) / (spec.experts - drawn))
    return ranks * (1.0 - apart)
