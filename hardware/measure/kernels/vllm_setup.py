"""vLLM without an engine: the configuration and process group that its layers ask for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@cache
def config() -> Any:
    """A configuration for eager execution; the first call sets up a group of one rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = _configured()
    _join(found, 0, 1, f"tcp://127.0.0.1:{port}", "gloo")
    return found


def tensor_parallel(rank: int, ranks: int, address: str, backend: str) -> Any:
    """The tensor-parallel group of all ``ranks``, whose rank ``rank`` this process becomes."""
    from vllm.distributed.parallel_state import get_tp_group

    _join(_configured(), rank, ranks, address, backend)
    return get_tp_group()


def _configured() -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import torch
    import vllm.ir
    from vllm.config import CompilationConfig, VllmConfig

    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.bfloat16)
    found = VllmConfig(compilation_config=CompilationConfig(mode=0, custom_ops=["all"]))
    # As its workers do: layers call their implementations directly, not through torch's operators.
    found.kernel_config.ir_op_priority.set_default()
    vllm.ir.set_default_torch_wrap(found.compilation_config.ir_enable_torch_wrap)
    return found


def _join(found: Any, rank: int, ranks: int, address: str, backend: str) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.distributed.parallel_state import (
        ensure_model_parallel_initialized,
        init_distributed_environment,
    )

    # What the engine's launcher sets: ranks that agree on a name share memory.
    os.environ["LOCAL_WORLD_SIZE"] = str(ranks)
    os.environ["VLLM_DIST_IDENT"] = address.rpartition(":")[2]
    with set_current_vllm_config(found):
        init_distributed_environment(ranks, rank, address, rank, backend)
        ensure_model_parallel_initialized(ranks, 1)


def made(make: Callable[[], T]) -> T:
    """What ``make`` returns, the configuration being current: vLLM's layers read it when built."""
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(config()):
        return make()


def in_forward(metadata: Mapping[str, Any], slots: Mapping[str, Any]) -> None:
    """Make ``metadata`` and ``slots`` (by layer) those that layers see from now on."""
    from vllm import forward_context

    layers = config().compilation_config.static_forward_context
    forward_context._forward_context = forward_context.ForwardContext(
        no_compile_layers=layers, attn_metadata=dict(metadata), slot_mapping=dict(slots)
    )


def registered(name: str, layer: T) -> T:
    """``layer`` as the only one called ``name``."""
    config().compilation_config.static_forward_context[name] = layer
    return layer


def forget(name: str) -> None:
    """Let a new layer take ``name``."""
    config().compilation_config.static_forward_context.pop(name, None)
