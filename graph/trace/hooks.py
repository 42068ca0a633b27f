"""Hooks into ``transformers``: operators a serving engine runs as one kernel are recorded whole."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from servesim.graph.trace.fresh import forget_modelling_modules
from servesim.graph.trace.recorder import Recorder

#: Name under which attention, mask and expert functions are registered.
IMPLEMENTATION = "servesim"

_active: list[Recorder] = []


def current() -> Recorder | None:
    """The recorder of the trace in progress, if it is recording."""
    return _active[-1] if _active and _active[-1].recording else None


@contextmanager
def active(recorder: Recorder) -> Iterator[None]:
    """Send what the hooks see to ``recorder``."""
    _active.append(recorder)
    try:
        yield
    finally:
        _active.pop()


@functools.cache
def install() -> None:
    """Register everything, once a process; modelling modules imported before are forgotten."""
    forget_modelling_modules()
    _wrap_kernels()
    from transformers import AttentionInterface, AttentionMaskInterface, cache_utils
    from transformers.integrations.moe import ExpertsInterface

    AttentionInterface.register(IMPLEMENTATION, _attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _mask)
    ExpertsInterface.register(IMPLEMENTATION, _experts)
    for cache in (cache_utils.Cache, cache_utils.EncoderDecoderCache):
        for name, target in (
            ("update", "kv_update"),
            ("update_conv_state", "state_update"),
            ("update_recurrent_state", "state_update"),
            ("update_indexer", "indexer_update"),
        ):
            if name in vars(cache):
                setattr(cache, name, _cache_write(vars(cache)[name], target))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as one node; heads before tokens in, tokens before heads out."""
    shape = (query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
    recorder = current()
    with torch.no_grad():
        if recorder is None:
            return torch.empty(shape, dtype=query.dtype, device=query.device), None
        with recorder.paused():
            out = torch.empty(shape, dtype=query.dtype, device=query.device)
    sinks = kwargs.get("s_aux", getattr(module, "sinks", None))
    extra = [t for t in kwargs.values() if isinstance(t, torch.Tensor)]
    causal = kwargs.get("is_causal")
    attrs = {
        "scale": _number(kwargs.get("scaling", getattr(module, "scaling", None))),
        "window": _number(kwargs.get("sliding_window")),
        "softcap": _number(kwargs.get("softcap")),
        "sinks": isinstance(sinks, torch.Tensor),
        "causal": getattr(module, "is_causal", True) if causal is None else bool(causal),
        "selects": _selects(module),
        "heads": query.shape[1],
        "kv_heads": key.shape[1],
        "head_dim": query.shape[-1],
        "value_dim": value.shape[-1],
    }
    inputs = (query, key, value, attention_mask, sinks, extra)
    recorder.emit("attention", inputs, out, attrs)
    return out, None


def _selects(module: torch.nn.Module) -> int | None:
    """How many keys an indexer inside ``module`` picks for each token, if there is one."""
    for inner in module.modules():
        for name in ("index_topk", "token_budget"):
            count = vars(inner).get(name)
            if isinstance(count, int):
                return count
    return None


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """A mask as one node that says what the mask lets through."""
    recorder = current()
    shape = (batch_size, 1, int(q_length), int(kv_length))
    if recorder is None:
        return torch.empty(shape, dtype=torch.bool, device="meta")
    with recorder.paused():
        out = torch.empty(shape, dtype=torch.bool, device="meta")
    limits = dict(_closure_limits(mask_function))
    limits["causal"] = any(
        name == "causal_mask_function" for name in _function_names(mask_function)
    )
    recorder.emit("mask", (), out, limits)
    return out


def _closures(function: Any) -> Iterator[tuple[str, Any]]:
    """Free variables of a mask function and of the mask functions it combines."""
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        value = cell.cell_contents
        yield name, value
        for item in value if isinstance(value, tuple) else (value,):
            yield from _closures(item)


def _closure_limits(function: Any) -> Iterator[tuple[str, int]]:
    for name, value in _closures(function):
        if name == "sliding_window" and isinstance(value, int):
            yield "window", value
        elif name == "chunk_size" and isinstance(value, int):
            yield "chunk", value


def _function_names(function: Any) -> Iterator[str]:
    if callable(function):
        yield getattr(function, "__name__", "")
    for _, value in _closures(function):
        for item in value if isinstance(value, tuple) else (value,):
            if callable(item):
                yield getattr(item, "__name__", "")


def hook_experts(model: torch.nn.Module) -> None:
    """Give modules that hold stacked expert matrices, but do not ask the experts interface, the
    recorded forward all the same.
    """
    for module in model.modules():
        if "expert" not in type(module).__name__.lower() or hasattr(module, "_is_expert_parallel"):
            continue
        stacked = [p for p in module.parameters(recurse=False) if p.ndim == 3]
        takes_choices = len(inspect.signature(module.forward).parameters) >= 3
        if len(stacked) == 1:
            _replace_forward(module, _expert_matrices)
        elif stacked or takes_choices:
            _replace_forward(module, _experts)


def _replace_forward(module: torch.nn.Module, hook: Callable[..., Any]) -> None:
    module.forward = functools.wraps(module.forward)(functools.partial(hook, module))


def _expert_matrices(self: Any, rows: torch.Tensor, *_: Any) -> torch.Tensor:
    """One matrix an expert, for rows that are gathered by expert already."""
    weight = next(p for p in self.parameters(recurse=False) if p.ndim == 3)
    width = weight.shape[1] if weight.shape[2] == rows.shape[-1] else weight.shape[2]
    recorder = current()
    with recorder.paused() if recorder else contextlib.nullcontext():
        out = torch.empty(*rows.shape[:-1], width, dtype=rows.dtype, device=rows.device)
    if recorder is not None:
        attrs = {"sizes": [tuple(rows.shape), tuple(weight.shape[1:])]}
        recorder.emit("aten._grouped_mm", (rows, weight), out, attrs)
    return out


def _experts(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """All routed experts of a layer as one node.

    ``attrs["top_k"]`` is 0 where the experts are called with every token for each of them.
    """
    recorder = current()
    if recorder is None:
        return torch.empty_like(hidden_states)
    with recorder.paused():
        out = torch.empty_like(hidden_states)
    given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
    chosen = [a for a in given if not a.is_floating_point()]
    weights = list(self.parameters())
    attrs = _expert_sizes(self, weights, hidden_states.shape[-1])
    attrs["top_k"] = int(chosen[0].shape[-1]) if chosen else 0
    recorder.emit("experts", (hidden_states, args, kwargs, weights), out, attrs)
    return out


def _expert_sizes(module: Any, weights: list[torch.Tensor], hidden: int) -> dict[str, Any]:
    """Number and width of experts from their stacked matrices.

    ``choices``: what a router chooses among; some choices may have no down projection (they hand
    the token on), so that part of the up projection is ``unused``.
    """
    stacked = [p for p in weights if p.ndim == 3]
    if not stacked:  # (experts · width) x hidden
        count = int(module.num_experts)
        stacked = [p.view(count, -1, p.shape[-1]) for p in weights if p.ndim == 2]
        weights = stacked
    first, *others = stacked
    experts = min(int(p.shape[0]) for p in stacked)
    width = others[-1][0].numel() // hidden
    return {
        "experts": experts,
        "width": width,
        "gated": first[0].numel() // hidden == 2 * width or len(others) == 2,
        "bias": any(p.ndim == 2 for p in weights),
        "choices": max(int(p.shape[0]) for p in stacked),
        "unused": sum(p.numel() - p[0].numel() * experts for p in stacked),
    }


def _cache_write(original: Callable[..., Any], target: str) -> Callable[..., Any]:
    """A cache method as one node: what it returns comes from what is stored."""

    @functools.wraps(original)
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = current()
        if recorder is None:
            return original(self, *args, **kwargs)
        with recorder.paused():
            out = original(self, *args, **kwargs)
            # A cache hands back its own tensors, which a later layer may be given again.
            out = tuple(t.view_as(t) for t in out) if isinstance(out, tuple) else out.view_as(out)
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        kept = _kept_state(self, original.__name__, args, kwargs)
        attrs = {"stored": [(t.numel() // t.shape[0], t.element_size()) for t in kept or given]}
        return recorder.emit(target, (args, kwargs), out, attrs)

    return update


def _kept_state(
    cache: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[torch.Tensor]:
    """What a state's update left in the cache: of a convolution's input, its last columns."""
    if not method.endswith("_state"):
        return []
    layer = kwargs.get("layer_idx", args[1] if len(args) > 1 else None)
    index = kwargs.get("state_idx", args[2] if len(args) > 2 else 0)
    states = getattr(cache.layers[layer], f"{method.removeprefix('update_')}s", None)
    state = states[index] if states is not None and index in range(len(states)) else None
    return [state] if isinstance(state, torch.Tensor) else []


def _wrap_kernels() -> None:
    """Kernels with a reference implementation (scans, convolutions) become one node each."""
    from transformers import integrations
    from transformers.integrations import hub_kernels

    def decorator(name: str, *_: Any, **__: Any) -> Callable[..., Any]:
        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            signature = inspect.signature(function)
            signature_defaults = {k: p.default for k, p in signature.parameters.items()}

            @functools.wraps(function)
            def kernel(*args: Any, **kwargs: Any) -> Any:
                recorder = current()
                if recorder is None:
                    return function(*args, **kwargs)
                with recorder.paused():
                    out = function(*args, **kwargs)
                given = signature.bind_partial(*args, **kwargs).arguments
                attrs = {
                    "sizes": {k: tuple(v.shape) for k, v in given.items() if torch.is_tensor(v)},
                    "chunk": given.get("chunk_size", signature_defaults.get("chunk_size", 64)),
                }
                return recorder.emit(f"kernel.{name}", (args, kwargs), out, attrs)

            return kernel

        return wrap

    hub_kernels.use_kernel_func_from_hub_with_fallback = decorator
    integrations.use_kernel_func_from_hub_with_fallback = decorator
