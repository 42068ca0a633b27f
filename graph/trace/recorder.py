"""A dispatch mode that writes down every operator of a forward pass.

Tensors live on the ``meta`` device: shapes are computed, numbers are not. Composite operators that
a serving engine runs as one kernel (linear layers, attention) are caught one level higher, by a
function mode, and recorded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from servesim.graph.ir import CONSTANT, PARAMETER, Node, TraceGraph
from servesim.graph.trace.policy import answer

_DTYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp32",
}


class Recorder:
    """Builds a `TraceGraph` while a model runs.

    A tensor is known by its ``id``, so every tensor recorded is kept alive. Writes into views are
    dataflow too: whoever reads a storage later depends on everybody who wrote to it.
    """

    def __init__(self, model: torch.nn.Module, graph: TraceGraph) -> None:
        self.graph = graph
        self.scope: list[str] = []
        self.layer: int | None = None
        self._paused = 0
        self._ids: dict[int, int] = {}
        self._alive: list[torch.Tensor] = []
        self._writers: dict[int, list[int]] = {}
        self._next = 0
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._names |= {id(b): name for name, b in model.named_buffers()}
        self._parameters = {id(p) for p in model.parameters()}

    @property
    def recording(self) -> bool:
        """False inside `paused`."""
        return not self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run code without recording it."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def node_of(self, tensor: torch.Tensor) -> int:
        """The node of ``tensor``; an unknown tensor becomes a parameter or a constant."""
        known = self._ids.get(id(tensor))
        if known is not None:
            return known
        target = PARAMETER if id(tensor) in self._parameters else CONSTANT
        node = self._add(target, (), tensor, {"name": self._names.get(id(tensor), "")})
        node.scope, node.layer = "", None
        return node.id

    def input(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Declare a model input."""
        self._add("input", (), tensor, {"name": name})
        return tensor

    def emit(self, target: str, inputs: Any, out: Any, attrs: dict[str, Any] | None = None) -> Any:
        """Record one operator: ``inputs`` and ``out`` are any nesting of tensors."""
        tensors = [t for t in tree_flatten(inputs)[0] if isinstance(t, torch.Tensor)]
        sources = self._sources(tensors)
        results = [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        if len(results) == 1:
            self._add(target, sources, results[0], attrs or {})
        elif results:
            head = self._add(target, sources, None, attrs or {})
            for index, tensor in enumerate(results):
                self._add("getitem", (head.id,), tensor, {"index": index})
        return out

    def wrote(self, tensor: torch.Tensor) -> None:
        """The node last recorded changed ``tensor`` in place."""
        self._ids[id(tensor)] = self._next - 1
        self._writers.setdefault(_storage(tensor), []).append(self._next - 1)

    def _sources(self, tensors: list[torch.Tensor]) -> tuple[int, ...]:
        return tuple(self._source(tensor) for tensor in tensors)

    def _source(self, tensor: torch.Tensor) -> int:
        """The node of ``tensor``, joined with whoever wrote to its storage since."""
        own = self.node_of(tensor)
        later = [w for w in self._writers.get(_storage(tensor), ()) if w > own]
        return self._add("join", (own, *later), tensor, {}).id if later else own

    def _add(
        self,
        target: str,
        sources: tuple[int, ...],
        tensor: torch.Tensor | None,
        attrs: dict[str, Any],
    ) -> Node:
        node = Node(
            self._next,
            target,
            sources,
            () if tensor is None else tuple(tensor.shape),
            0 if tensor is None else tensor.element_size(),
            "bf16" if tensor is None else _DTYPES.get(tensor.dtype, "int8"),
            self.scope[-1] if self.scope else "",
            self.layer,
            attrs,
        )
        self.graph.nodes[node.id] = node
        self._next += 1
        if tensor is not None:
            self._ids[id(tensor)] = node.id
            self._alive.append(tensor)
        return node


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _plain(value: Any) -> Any:
    """Arguments worth keeping: numbers, strings and short lists of them."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        return [_plain(v) for v in value]
    return None


class _Dispatch(TorchDispatchMode):  # type: ignore[misc]
    """Records what reaches the dispatcher."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        recorder = self.recorder
        out, note = answer(func, args, kwargs)
        if note and note not in recorder.graph.notes:
            recorder.graph.notes.append(note)
        if not recorder.recording:
            return out
        attrs = {"args": [_plain(a) for a in args if not isinstance(a, torch.Tensor)]}
        attrs |= {k: _plain(v) for k, v in kwargs.items() if isinstance(v, (int, float, str))}
        attrs["sizes"] = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        recorder.emit(str(func), (args, kwargs), out, attrs)
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                written = argument.alias_info is not None and argument.alias_info.is_write
                if written and isinstance(value, torch.Tensor):
                    recorder.wrote(value)
        return out


class _Functions(TorchFunctionMode):  # type: ignore[misc]
    """Keeps whole what the dispatcher would see in pieces."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        whole = _WHOLE.get(func)
        if whole is None or not self.recorder.recording:
            return func(*args, **kwargs)
        with self.recorder.paused():
            out = func(*args, **kwargs)
        target, attrs = whole(args, kwargs)
        return self.recorder.emit(target, (args, kwargs), out, attrs)


def _linear(args: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
    return "linear", {}


def _embedding(args: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
    return "embedding", {}


def _norm(args: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
    return "norm", {}


def _layer_norm(args: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
    return "norm", {"function": "layer"}


def _sdpa(args: Any, kwargs: Any) -> tuple[str, dict[str, Any]]:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
    given = dict(zip(names, args, strict=False)) | kwargs
    query, key, value = given["query"], given["key"], given["value"]
    return "attention", {
        "scale": given.get("scale"),
        "causal": bool(given.get("is_causal")) or given.get("attn_mask") is not None,
        "heads": query.shape[-3],
        "kv_heads": key.shape[-3],
        "head_dim": query.shape[-1],
        "value_dim": value.shape[-1],
    }


_F = torch.nn.functional
_WHOLE: dict[Callable[..., Any], Callable[[Any, Any], tuple[str, dict[str, Any]]]] = {
    _F.linear: _linear,
    _F.embedding: _embedding,
    _F.layer_norm: _layer_norm,
    _F.rms_norm: _norm,
    _F.group_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    torch.rms_norm: _norm,
    _F.scaled_dot_product_attention: _sdpa,
}


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Write down everything that runs inside."""
    with torch.no_grad(), _Functions(recorder), _Dispatch(recorder):
        yield
