"""Answers to what meta tensors cannot tell: values, and shapes that depend on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map


def answer(func: Any, args: Any, kwargs: Any) -> tuple[Any, str]:
    """Run ``func``; where the result depends on data, answer by policy.

    Returns:
        The result, and a note of the answer ("" if none was needed). Scalars read from a tensor
        are 1 (True), ``nonzero`` finds one element a row, masks let everything through, values
        that the host wants to see are zeros.
    """
    policy = _POLICIES.get(func)
    if policy is not None:
        answered = policy(args, kwargs)
        if answered is not None:
            return answered
    try:
        return func(*args, **kwargs), ""
    except RuntimeError as error:
        if "expected device" not in str(error):
            raise
        args, kwargs = tree_map(_to_meta, (args, kwargs))
        return func(*args, **kwargs), ""


Answer = tuple[Any, str] | None


def _scalar(args: Any, _: Any) -> Answer:
    if not args[0].is_meta:
        return None
    dtype = args[0].dtype
    value = True if dtype is torch.bool else 1.0 if dtype.is_floating_point else 1
    return value, f"a scalar read from a tensor was answered with {value}"


def _nonzero(args: Any, _: Any) -> Answer:
    tensor = args[0]
    if not tensor.is_meta:
        return None
    found = max(1, tensor.shape[0] if tensor.ndim else 1)
    result = torch.empty(found, max(1, tensor.ndim), dtype=torch.int64, device="meta")
    return result, f"nonzero of {tuple(tensor.shape)} was answered with {found} positions"


def _to_copy(args: Any, kwargs: Any) -> Answer:
    if not args[0].is_meta or str(kwargs.get("device", "meta")) != "cpu":
        return None
    shape = tuple(args[0].shape)
    copy = torch.zeros(shape, dtype=kwargs.get("dtype") or args[0].dtype, device="cpu")
    return copy, f"values of shape {shape} read by the host were answered with zeros"


def _index(args: Any, _: Any) -> Answer:
    tensor, indices = args
    masks = any(i is not None and i.dtype is torch.bool for i in indices)
    if not tensor.is_meta or not masks:
        return None
    flat = [i for index in indices for i in _all_positions(index)]
    out = torch.ops.aten.index.Tensor(tensor, flat)
    return out, "a boolean mask was answered with True everywhere"


def _equal(_: Any, __: Any) -> Answer:
    return True, "tensor equality was answered with True"


_POLICIES: dict[Any, Callable[[Any, Any], Answer]] = {
    torch.ops.aten._local_scalar_dense.default: _scalar,
    torch.ops.aten.nonzero.default: _nonzero,
    torch.ops.aten._to_copy.default: _to_copy,
    torch.ops.aten.index.Tensor: _index,
    torch.ops.aten.equal.default: _equal,
}


def _to_meta(value: Any) -> Any:
    """Tensors that the code made on the host join the others."""
    if isinstance(value, torch.Tensor) and not value.is_meta:
        return torch.empty_like(value, device="meta")
    return value


def _all_positions(index: Any) -> list[Any]:
    """Integer indices in place of a boolean mask that is True everywhere."""
    if index is None or index.dtype is not torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.int64, device="meta")] * index.ndim
