"""Collectives by torch.distributed, or as vLLM's group of tensor-parallel ranks runs them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import CollectiveWork
from servesim.hardware.measure.kernels.tensors import random
from servesim.hardware.measure.timer import Call

#: The backend of each device's process group.
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def join(provider: str, device: str, rank: int, ranks: int, address: str) -> Any:
    """Become rank ``rank``; returns vLLM's group, or None for torch's own collectives."""
    import torch

    if device == "cuda":
        torch.cuda.set_device(rank)
    if provider == "vllm":
        from servesim.hardware.measure.kernels.vllm_setup import tensor_parallel

        return tensor_parallel(rank, ranks, address, BACKENDS[device])
    torch.distributed.init_process_group(
        BACKENDS[device], init_method=address, rank=rank, world_size=ranks
    )
    return None


def leave(provider: str) -> None:
    """End what ``join`` began; memory that vLLM's ranks share is given back."""
    import torch

    if provider == "vllm":
        from vllm.distributed.parallel_state import (
            destroy_distributed_environment,
            destroy_model_parallel,
        )

        destroy_model_parallel()
        destroy_distributed_environment()
    elif torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def bound(work: CollectiveWork, device: str, group: Any) -> Call:
    """The call of this rank; payloads are counted as in ``CollectiveWork``.

    Raises:
        UnsupportedError: an operation that is not measured.
    """
    import torch.distributed as dist

    count = max(work.ranks, round(work.payload_bytes / bytes_per_element(work.dtype)))
    whole = count - count % work.ranks
    shard = random((whole // work.ranks,), work.dtype, device)
    full = random((whole,), work.dtype, device)
    makers: dict[str, Callable[[], Call]] = {
        "all_reduce": lambda: partial((group or dist).all_reduce, full),
        "all_gather": lambda: (
            partial(group.all_gather, shard)
            if group
            else partial(dist.all_gather_into_tensor, full, shard)
        ),
        "reduce_scatter": lambda: partial(dist.reduce_scatter_tensor, shard, full),
        "all_to_all": lambda: partial(dist.all_to_all_single, full.clone(), full),
        "broadcast": lambda: partial(dist.broadcast, full, 0),
        "send": lambda: _send(full),
    }
    if work.operation not in makers:
        raise UnsupportedError(f"{work.operation} is not measured")
    return makers[work.operation]()


def _send(full: Any) -> Call:
    """From the first rank to the second; the others look on."""
    import torch.distributed as dist

    rank = dist.get_rank()
    if rank == 0:
        return partial(dist.send, full, 1)
    return partial(dist.recv, full, 0) if rank == 1 else _nothing


def _nothing() -> None:
    return None
