"""vLLM's state-space mixers on a CPU: Mamba-2, and the decodes of Mamba."""

from __future__ import annotations

from typing import Any

from servesim.errors import UnsupportedError
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import random


class StateSpace:
    """Mamba-2: a scan of prefills, whose results are put into the cache, or a step of decodes."""

    def __init__(self, spec: Any, room: Room) -> None:
        import torch

        self.spec, self.heads, self.width = spec, spec.heads, spec.value_dim
        rest = spec.token_elements - (2 * self.width + 1) * self.heads
        self.groups = max(1, round(rest / (2 * spec.key_dim)))
        self.decay, self.skip = -torch.rand(self.heads, dtype=torch.float32), torch.ones(self.heads)
        self.bias = torch.rand(self.heads, dtype=torch.bfloat16)

    def states(self, count: int) -> Any:
        """A cache of so many sequences."""
        shape = (count, self.heads, self.width, self.spec.key_dim)
        return random(shape, self.spec.state_dtype, "cpu")

    def inputs(self, tokens: int) -> Any:
        """What the convolution put out, the time steps, and room for the result."""
        spec = self.spec
        whole = self.heads * self.width + 2 * self.groups * spec.key_dim
        shapes = (tokens, whole), (tokens, self.heads), (tokens, self.heads, self.width)
        return [random(shape, spec.dtype, "cpu") for shape in shapes]

    def update(self, state: Any, inputs: Any, at: Any) -> None:
        """One token of the sequences ``at``."""
        import torch
        from vllm.model_executor.layers.mamba.ops.cpu.mamba_ssm import selective_state_update

        x, b, c, step, out = self._parts(inputs)
        wide = self.heads, self.width
        decay = self.decay[:, None, None].expand(*wide, self.spec.key_dim).to(torch.float32)
        step = step[:, :, None].expand(-1, -1, self.width)
        skip, bias = (v[:, None].expand(wide) for v in (self.skip, self.bias))
        selective_state_update(
            state, x, step, decay, b, c, skip, None, bias, True, at, at, out=out
        )  # fmt: skip

    def scan(self, state: Any, inputs: Any, at: Any, starts: Any) -> None:
        """New sequences, each of the tokens between two ``starts``."""
        from vllm.model_executor.layers.mamba.ops.ssd_combined import (
            mamba_chunk_scan_combined_varlen,
        )

        x, b, c, step, out = self._parts(inputs)
        state[at.long()] = mamba_chunk_scan_combined_varlen(
            x, step, self.decay, b, c, 256, starts, starts, at, at, out,
            D=self.skip, dt_bias=self.bias, dt_softplus=True, state_dtype=state.dtype,
        )  # fmt: skip

    def _parts(self, inputs: Any) -> tuple[Any, ...]:
        import torch

        mixed, step, out = inputs
        inner, shared = self.heads * self.width, self.groups * self.spec.key_dim
        x, b, c = torch.split(mixed, [inner, shared, shared], dim=-1)
        b, c = (v.reshape(len(v), self.groups, -1) for v in (b, c))
        return x.reshape(out.shape), b, c, step, out


class SelectiveScan:
    """Mamba: a step of decodes; its scan of prefills has no kernel on CPUs."""

    def __init__(self, spec: Any, room: Room) -> None:
        import torch

        self.spec = spec
        self.decay = -torch.rand(spec.heads, spec.key_dim, dtype=torch.float32)
        self.skip, self.bias = torch.ones(spec.heads), torch.rand(spec.heads)

    def states(self, count: int) -> Any:
        """A cache of so many sequences."""
        return random((count, self.spec.heads, self.spec.key_dim), self.spec.state_dtype, "cpu")

    def inputs(self, tokens: int) -> Any:
        """Channels, time steps and gates, then what writes and reads the state."""
        spec = self.spec
        widths = (spec.heads,) * 3 + (spec.key_dim,) * 2
        return [random((tokens, width), spec.dtype, "cpu") for width in widths]

    def update(self, state: Any, inputs: Any, at: Any) -> None:
        """One token of the sequences ``at``."""
        import torch
        from vllm.model_executor.layers.mamba.ops.cpu.mamba_ssm import selective_state_update

        x, step, gate, b, c = inputs
        out = torch.empty_like(x)
        selective_state_update(
            state, x, step, self.decay, b, c, self.skip, gate, self.bias, True, at, at, out=out
        )

    def scan(self, state: Any, inputs: Any, at: Any, starts: Any) -> None:
        """Not there.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("vLLM scans prefills of Mamba on GPUs only")
