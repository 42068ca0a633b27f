"""Recording the prefill and the decode step of a causal language model."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from servesim.graph.ir import TraceGraph
from servesim.graph.trace import hooks
from servesim.graph.trace.layers import LayerFolder, find_layers, layer_index
from servesim.graph.trace.recorder import Recorder, recording

#: Sequences and tokens of a trace: primes that no model dimension equals by accident.
BATCH, TOKENS = 2, 61


def capture(model: torch.nn.Module, *, fold: bool = True) -> tuple[TraceGraph, TraceGraph | None]:
    """Record a prefill of `BATCH` x `TOKENS` tokens and one decode step after it.

    A model that hands back no cache (it has none, or keeps its state in its modules) is given one
    token all the same.

    Returns:
        Both graphs; no decode graph if the step fails.
    """
    prefill, out = record_prefill(model, fold)
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        cache = getattr(out, "cache_params", None)
    if cache is None:
        cache = getattr(out, "state", None)
    decode = TraceGraph(BATCH, 1, context=TOKENS)
    try:
        _run(model, decode, 1, cache, fold)
    except Exception as error:
        prefill.notes.append(f"no decode step: {type(error).__name__}: {error}"[:200])
        return prefill, None
    return prefill, decode


def record_prefill(model: torch.nn.Module, fold: bool = True) -> tuple[TraceGraph, Any]:
    """Record a prefill into an empty cache, or into the one that the model makes for itself.

    The last attempt makes new tensors on the meta device whatever device the code asks for.

    Returns:
        The graph and what the model returned.
    """
    empty = _empty_cache(model)
    attempts = ([(empty, False)] if empty is not None else []) + [(None, False), (None, True)]
    failure: Exception | None = None
    for cache, on_meta in attempts:
        graph = TraceGraph(BATCH, TOKENS)
        try:
            with torch.device("meta") if on_meta else contextlib.nullcontext():
                return graph, _run(model, graph, TOKENS, cache, fold)
        except Exception as error:
            failure = failure or error
    assert failure is not None
    raise failure


def record_call(model: torch.nn.Module, arguments: dict[str, Any], tokens: int) -> TraceGraph:
    """Record one call of ``model`` that handles ``tokens`` tokens (patches) of one sequence."""
    graph = TraceGraph(1, tokens)
    inputs = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.is_meta}
    _record(model, graph, arguments, inputs, fold=True)
    return graph


def _run(model: torch.nn.Module, graph: TraceGraph, tokens: int, cache: Any, fold: bool) -> Any:
    books = getattr(model.config, "num_codebooks", 1)  # audio codes: several streams a sequence
    ids = torch.empty(BATCH * books, tokens, dtype=torch.int64, device="meta")
    return _record(model, graph, _arguments(model, ids, cache), {"input_ids": ids}, fold)


def _record(
    model: torch.nn.Module,
    graph: TraceGraph,
    arguments: dict[str, Any],
    inputs: dict[str, torch.Tensor],
    fold: bool,
) -> Any:
    recorder = Recorder(model, graph)
    layers = find_layers(model)
    folder = LayerFolder(model, recorder, arguments.get("past_key_values")) if fold else None
    with ExitStack() as stack:
        if folder is not None:
            stack.callback(folder.restore)
        stack.enter_context(_module_stack(model, layers, recorder))
        stack.enter_context(hooks.active(recorder))
        stack.enter_context(recording(recorder))
        for name, tensor in inputs.items():
            recorder.input(tensor, name)
        out = model(**arguments)
    logits = getattr(out, "logits", None)
    graph.outputs = () if logits is None else (recorder.node_of(logits),)
    graph.layers = len({layer_index(p) for p in layers})
    graph.lint()
    return out


def _arguments(model: torch.nn.Module, ids: torch.Tensor, cache: Any) -> dict[str, Any]:
    """What this model's forward takes of the usual arguments."""
    known = inspect.signature(model.forward).parameters
    loose = any(p.kind is p.VAR_KEYWORD for p in known.values())
    given: dict[str, Any] = {"input_ids": ids}
    if "use_cache" in known or loose:
        given["use_cache"] = True
    if "logits_to_keep" in known:
        given["logits_to_keep"] = 1
    if "return_dict" in known:
        given["return_dict"] = True
    inner = getattr(model, "model", model)
    if "patch_lengths" in inspect.signature(inner.forward).parameters:  # bytes: one a patch
        given["patch_lengths"] = torch.ones_like(ids)
    if cache is not None:
        name = next((n for n in ("past_key_values", "cache_params", "state") if n in known), None)
        if name or loose:
            given[name or "past_key_values"] = cache
    return {k: v for k, v in given.items() if v is not None}


def _empty_cache(model: torch.nn.Module) -> Any:
    from transformers import DynamicCache

    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return None
    try:
        return DynamicCache(config=model.config)
    except Exception:  # a model whose config describes no cache makes its own
        return None


@contextmanager
def _module_stack(
    model: torch.nn.Module, layers: dict[str, torch.nn.Module], recorder: Recorder
) -> Iterator[None]:
    """Tell the recorder which module and layer is running."""
    names = {id(module): name for name, module in model.named_modules()}
    indices = {id(layer): layer_index(path) for path, layer in layers.items()}
    outer: list[int | None] = []

    def enter(module: torch.nn.Module, _: Any) -> None:
        recorder.scope.append(names.get(id(module), ""))
        outer.append(recorder.layer)
        recorder.layer = indices.get(id(module), recorder.layer)

    def leave(module: torch.nn.Module, *_: Any) -> None:
        recorder.scope.pop()
        recorder.layer = outer.pop()

    hook: Callable[..., Any] = torch.nn.modules.module.register_module_forward_pre_hook
    handles = [
        hook(enter),
        torch.nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
