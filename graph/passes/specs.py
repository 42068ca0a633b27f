"""The parameters of each operator, from its node."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from servesim.graph.ir import Node, TraceGraph
from servesim.graph.op import OpSpec
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.batched_gemm import BatchedGemm
from servesim.graph.ops.embedding import Embedding
from servesim.graph.ops.experts import Experts
from servesim.graph.ops.gemm import Gemm
from servesim.graph.ops.indexer import Indexer
from servesim.graph.ops.latent_expand import LatentExpand
from servesim.graph.ops.lm_head import LmHead
from servesim.graph.ops.norm import Norm
from servesim.graph.ops.other import Other
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.ops.recurrent import Recurrent
from servesim.graph.passes.fuse import POINTWISE
from servesim.graph.passes.latent import Latent
from servesim.graph.passes.merge_gemms import is_linear
from servesim.graph.passes.naming import below_layer
from servesim.graph.passes.parts import parts_of
from servesim.graph.passes.recurrences import Geometry, geometry, short_convolution
from servesim.graph.passes.roles import is_anchor, reach
from servesim.graph.passes.simplify import base_name, parameters_of

#: Operations on an element in gelu's tanh form beside the one that is counted: powers, sums,
#: products.
_GELU = 6

Made = tuple[str, OpSpec, tuple[str, ...]]


class Specs:
    """Builds specs; each parameter belongs to the first operator that reads it."""

    def __init__(self, graph: TraceGraph, dtype: str) -> None:
        self._graph = graph
        self._dtype = dtype
        self._users = graph.users()
        self._owned: set[str] = set()

    def of(self, node: Node, addends: int = 0) -> OpSpec:
        """The spec of ``node``; ``addends`` are the tensors a norm adds to its input first."""
        if is_linear(node):
            return self._linear(node)
        if node.target == "norm":
            return self._norm(node, addends)
        if node.target.startswith("kernel."):
            found = geometry(node)
            return self._other(node) if found is None else self._recurrent(node, found)
        by_target: dict[str, Callable[[Node], OpSpec]] = {
            "attention": self._attention,
            "experts": self._experts,
            "indexer": self._indexer,
            "embedding": self._embedding,
            "aten.convolution": self._convolution,
        }
        fallback = self._other if is_anchor(node) else self._pointwise
        name = node.target if node.target in by_target else base_name(node.target)
        return by_target.get(name, fallback)(node)

    def _norm(self, node: Node, addends: int) -> Norm:
        a = node.attrs
        own = self._own(node)
        function = a.get("function", "")
        return Norm(a["width"], a["groups"], addends, own, dtype=self._dtype, function=function)

    def _embedding(self, node: Node) -> Embedding:
        width = node.shape[-1]
        elements = max(parameters_of(node).values(), default=width)
        tied = self._own(node) == 0
        return Embedding(elements // width, width, self._dtype, tied=tied)

    def latent_attention(self, node: Node, inputs: tuple[str, ...]) -> list[Made]:
        """MLA: prefills expand keys and values, decodes attend to the latent vectors."""
        latent: Latent = node.attrs["latent"]
        prefill = self._attention(node)
        heads, value = prefill.heads, prefill.value_dim
        prefill = replace(prefill, kv_heads=heads, phase="prefill")
        decode = replace(
            prefill,
            weights=0,
            kv_heads=1,
            head_dim=latent.rank + latent.rope,
            value_dim=latent.rank,
            latent=True,
            phase="decode",
        )
        into = BatchedGemm(heads, latent.rank, latent.nope, self._dtype, self._dtype)
        out = BatchedGemm(heads, value, latent.rank, self._dtype, self._dtype)
        return [
            ("attention_prefill", prefill, inputs),
            ("q_absorb", into, inputs),
            ("attention", decode, ("q_absorb", *inputs)),
            ("v_absorb", out, ("attention",)),
        ]

    def _own(self, node: Node) -> int:
        """Elements of the parameters nobody has claimed yet, now claimed."""
        new = {k: v for k, v in parameters_of(node).items() if k not in self._owned}
        self._owned.update(new)
        return sum(new.values())

    def _linear(self, node: Node) -> OpSpec:
        n, k = node.shape[-1], node.attrs["k"]
        matrices = sum(max(p.values()) for _, _, p in node.attrs["members"])
        bias = sum(parameters_of(node).values()) > matrices
        tied = self._own(node) == 0
        rows = node.numel // n
        if node.layer is None and self._is_output(node):
            return LmHead(n, k, bias, self._dtype, self._dtype, tied=tied)
        if "expands" in node.attrs:
            heads = self._graph.nodes[node.attrs["expands"]].attrs["heads"]
            source = below_layer(node.scope)
            return LatentExpand(n, k, heads, source, bias, self._dtype, self._dtype)
        scale = rows / self._graph.rows
        return Gemm(
            n,
            k,
            parts_of(self._graph, self._users, node),
            bias,
            self._dtype,
            self._dtype,
            row_scale=scale,
            tied=tied,
        )

    def _is_output(self, node: Node) -> bool:
        """Whether the model's result is what ``node`` yields, or glue makes of it."""
        graph = self._graph

        def ends(n: Node) -> bool:
            return n.id in graph.outputs or (is_anchor(n) and n.id != node.id)

        found = reach(graph, [node.id], self._users.__getitem__, ends)
        return any(
            i in graph.outputs and (i == node.id or not is_anchor(graph.nodes[i])) for i in found
        )

    def _attention(self, node: Node) -> Attention:
        a = node.attrs
        return Attention(
            heads=a["heads"],
            kv_heads=a["kv_heads"],
            head_dim=a["head_dim"],
            value_dim=a["value_dim"],
            scale=a.get("scale") or a["head_dim"] ** -0.5,
            window=a.get("window") or None,
            chunk=a.get("chunk"),
            selected=a.get("selects") if self._is_masked_by_choice(node) else None,
            softcap=a.get("softcap") or 0.0,
            sinks=bool(a.get("sinks")),
            shared_kv=a["shared_kv"],
            causal=bool(a.get("causal", True)),
            dtype=self._dtype,
            kv_dtype=self._dtype,
            weights=self._own(node),
        )

    def _indexer(self, node: Node) -> Indexer:
        a = node.attrs
        return Indexer(a["heads"], a["head_dim"], self._dtype, self._dtype)

    def _is_masked_by_choice(self, node: Node) -> bool:
        """Whether which keys attention sees is computed from the tokens (by an indexer)."""
        graph = self._graph
        before = reach(
            graph, node.inputs[3:], lambda i: graph.nodes[i].inputs, lambda n: n.target == "router"
        )
        return bool(before)

    def _experts(self, node: Node) -> Experts:
        """Experts called without a choice get theirs from the router of the layer.

        Where some choices are no experts (they hand the token on), a token meets fewer real ones.
        """
        a = node.attrs
        self._own(node)
        routers = [
            n.attrs["top_k"]
            for n in self._graph
            if n.layer == node.layer and n.attrs.get("top_k") and n.target != "experts"
        ]
        top_k = a["top_k"] or (routers[0] if routers else a["experts"])
        top_k = max(1, round(top_k * a["experts"] / a.get("choices", a["experts"])))
        return Experts(
            experts=a["experts"],
            top_k=top_k,
            hidden=node.shape[-1],
            intermediate=a["width"],
            gated=a["gated"],
            bias=a["bias"],
            dtype=self._dtype,
            weight=self._dtype,
        )

    def _recurrent(self, node: Node, found: Geometry) -> Recurrent:
        """State in the format in which the layer stores it."""
        stored = [
            item
            for n in self._graph
            if n.target == "state_update" and n.layer == node.layer
            for elements, item in n.attrs["stored"]
            if elements >= found.state
        ]
        wide = bool(stored) and stored[0] == 4
        return Recurrent(
            recurrence=found.recurrence,
            heads=found.heads,
            key_dim=found.key_dim,
            value_dim=found.value_dim,
            flops_per_token=found.flops,
            token_elements=found.elements,
            state_elements=found.state,
            weights=self._own(node),
            dtype=self._dtype,
            state_dtype="fp32" if wide else self._dtype,
        )

    def _convolution(self, node: Node) -> OpSpec:
        """A convolution along the tokens is a recurrence with a short state; one whose patches do
        not overlap is a GEMM.
        """
        weight = node.attrs["sizes"][1]
        stride = next((a for a in node.attrs["args"] if isinstance(a, list)), None)
        if stride == list(weight[2:]) and math.prod(stride) > 1:
            n, k = weight[0], math.prod(weight[1:])
            bias = self._own(node) > n * k
            scale = node.numel / n / self._graph.rows
            return Gemm(n, k, (), bias, self._dtype, self._dtype, row_scale=scale)
        if len(weight) == 3 and node.layer is not None:
            return self._recurrent(node, short_convolution(weight[0], weight[2], weight[1]))
        return self._other(node)

    def _other(self, node: Node) -> Other:
        """Matrix products count their arithmetic, anything else one operation an element."""
        a, rows = node.attrs, self._graph.rows
        sizes = a.get("sizes") or [node.shape]
        inner = 1
        if base_name(node.target) in {"aten.bmm", "aten.mm", "aten.addmm", "aten.baddbmm"}:
            inner = 2 * sizes[-2][-1]
        elif base_name(node.target) == "aten.convolution":
            inner = 2 * math.prod(sizes[1][1:])
        weights = self._own(node)
        reads = sum(math.prod(s) for s in (sizes.values() if isinstance(sizes, dict) else sizes))
        return Other(
            node.target,
            max(0, reads - weights) / rows,
            node.numel / rows,
            node.numel * inner / rows,
            weights,
            self._dtype,
        )

    def _pointwise(self, node: Node) -> OpSpec:
        a = node.attrs
        strange = sorted({base_name(t) for t in a.get("members", ())} - POINTWISE)
        if node.target == "elementwise" and strange:
            names = " ".join(name.removeprefix("aten.") for name in strange)
            return Other(names, a["reads"], a["writes"], a["ops"], self._own(node), self._dtype)
        kernel = {"rotary": "rotary", "router": "router", "activation": "activation"}
        writes = a.get("writes", node.numel / self._graph.rows)
        gelu = any(base_name(target) == "aten.gelu" for target in a.get("members", ()))
        return Pointwise(
            kernel.get(node.target, "elementwise"),
            a.get("reads", node.numel / self._graph.rows),
            writes,
            a.get("ops", 0.0) + gelu * _GELU * writes,
            self._own(node),
            self._dtype,
            "gelu" if gelu else "",
        )
