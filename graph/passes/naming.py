"""Serving names of operators, from the roles that dataflow gives them."""

from __future__ import annotations

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.passes.merge_gemms import is_linear
from servesim.graph.passes.roles import is_mixer, reach, sinks, sources


def leaf(scope: str) -> str:
    """Last name of a module path that is no number."""
    names = [part for part in scope.split(".") if not part.isdigit()]
    return names[-1] if names else "op"


def below_layer(scope: str) -> str:
    """Path of a module below its layer: ``model.layers.3.mlp.up_proj`` -> ``mlp.up_proj``."""
    parts = scope.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[number + 1 :])


class Namer:
    """Names the nodes of one graph."""

    def __init__(self, graph: TraceGraph) -> None:
        self._graph = graph
        self._users = graph.users()
        self._moe = {n.layer for n in graph if n.target == "experts"}

    def name(self, node: Node) -> str:
        """The serving name of ``node``."""
        if is_linear(node):
            return self._linear(node)
        if node.target == "norm":
            return self._norm(node)
        if node.target == "activation":
            return self._activation(node)
        fixed = {"rotary": "rotary_emb", "residual": "residual_add"}
        name = fixed.get(node.target, node.target.removeprefix("kernel."))
        if node.target == "embedding" and not node.inputs:
            name = "position_embedding"
        elif node.target.startswith("aten.") and node.scope:
            name = leaf(node.scope)
        return name

    def _linear(self, node: Node) -> str:
        glue = self._glue_after(node)
        if "router" in glue:
            return "gate"
        named = self._mixer_projection(node, glue) or self._mlp(node, glue)
        return named or leaf(node.attrs["members"][0][0])

    def _mixer_projection(self, node: Node, glue: set[str]) -> str:
        """The name of a projection into or out of attention or a recurrence; "" for others."""
        graph = self._graph
        before = [graph.nodes[i] for i in sources(graph, node.inputs[0])]
        near = [n for n in self._sinks(node) if n.layer == node.layer]
        merged, own = len(node.attrs["members"]) > 1, leaf(node.attrs["members"][0][0])
        name = ""
        if any(n.target == "attention" for n in near):
            if merged or self._covers_keys(node, near):
                name = "fused_qkv_a_proj" if self._low_rank(near) else "qkv_proj"
            else:
                name = own
        elif any(n.target == "attention" for n in before):
            name = "o_proj"
        elif self._leaves_mixer(node) and "activation" not in glue:
            narrow = node.shape[-1] < node.attrs["k"] // 8
            name = own if narrow else "out_proj"
        elif any(is_mixer(n) for n in near):
            name = "in_proj" if merged else own
        return name

    def _sinks(self, node: Node) -> list[Node]:
        return [self._graph.nodes[i] for i in sinks(self._graph, self._users, node.id)]

    def _low_rank(self, near: list[Node]) -> bool:
        """Whether another projection stands between this one and attention."""
        return any(s.target == "attention" for n in near if is_linear(n) for s in self._sinks(n))

    def _covers_keys(self, node: Node, near: list[Node]) -> bool:
        """Whether the projection yields queries and keys alike (a fused QKV layer)."""
        graph = self._graph
        return all(
            node.id in sources(graph, i)
            for n in near
            if n.target == "attention"
            for i in n.inputs[:2]
        )

    def _mlp(self, node: Node, glue: set[str]) -> str:
        if "activation" in self._glue_before(node):
            return self._shared(node, "down_proj")
        if "activation" in glue:
            down = next((n for n in self._sinks(node) if is_linear(n)), None)
            width = 0 if down is None or self._leaves_mixer(down) else down.attrs["k"]
            if node.shape[-1] == 2 * width:
                return self._shared(node, "gate_up_proj")
            if node.shape[-1] == width:
                return self._shared(node, "up_proj")
        return ""

    def _leaves_mixer(self, node: Node) -> bool:
        """Whether attention or a recurrence is behind what ``node`` reads."""
        before = (self._graph.nodes[i] for i in sources(self._graph, node.inputs[0]))
        return any(is_mixer(n) and n.target != "experts" for n in before)

    def _shared(self, node: Node, name: str) -> str:
        """An MLP beside routed experts is the shared experts'."""
        return (
            f"shared_experts.{name}" if node.layer is not None and node.layer in self._moe else name
        )

    def _norm(self, node: Node) -> str:
        if node.layer is None:
            return "final_layernorm" if self._after_layers(node) else leaf(node.scope)
        heads = node.attrs["groups"] > 1
        served = self._sinks(node)
        if heads and any(n.target == "attention" for n in served):
            return "qk_norm"
        fed = [self._graph.nodes[i] for i in node.inputs]
        if any(n.target == "residual" or n.layer != node.layer for n in fed):
            return "layernorm"
        return leaf(node.scope)

    def _after_layers(self, node: Node) -> bool:
        before = reach(
            self._graph,
            node.inputs,
            lambda i: self._graph.nodes[i].inputs,
            lambda n: n.layer is not None,
        )
        return bool(before)

    def _activation(self, node: Node) -> str:
        graph = self._graph
        before = [graph.nodes[i] for n in node.inputs for i in sources(graph, n)]
        gates = any(is_mixer(s) for n in before for s in self._sinks(n) if s.target != "experts")
        inside = before and all(is_linear(n) for n in before) and not gates
        after = self._sinks(node)
        if inside and any(is_linear(n) for n in after):
            return self._shared(node, "act_fn")
        enters = any(is_mixer(n) and n.target != "experts" for n in after)
        return "input_act" if enters else "output_gate"

    def _glue_after(self, node: Node) -> set[str]:
        return {self._graph.nodes[i].target for i in self._users[node.id]}

    def _glue_before(self, node: Node) -> set[str]:
        return {self._graph.nodes[i].target for i in node.inputs}
