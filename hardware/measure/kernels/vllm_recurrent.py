"""vLLM's recurrent mixers on a CPU: causal convolution, gated delta rule, and the others' bench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.work import RecurrentWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import random
from servesim.hardware.measure.kernels.vllm_scans import SelectiveScan, StateSpace
from servesim.hardware.measure.kernels.vllm_setup import config
from servesim.hardware.measure.timer import Call

#: Calls each take other states, at random, so that none finds them in a processor's cache.
_PLACES = 32


class Recurrent:
    """Updates of decodes, then scans of prefills, on states that come from memory."""

    def __init__(self, spec: Any, room: Room) -> None:
        if room.device != "cpu":
            raise UnsupportedError("vLLM's recurrent mixers are measured on CPUs only")
        config()
        self.spec, self.room = spec, room
        parts: dict[str, Callable[[Any, Room], Any]] = {
            "short_conv": _Convolution,
            "gated_delta": _DeltaRule,
            "ssd": StateSpace,
            "selective_scan": SelectiveScan,
        }
        if spec.recurrence not in parts:
            raise UnsupportedError(f"no bench of vLLM's for the recurrence {spec.recurrence}")
        self.part = parts[spec.recurrence](spec, room)
        self.state: Any = None

    def calls(self, work: Work) -> Sequence[Call]:
        """``work`` on states all over the state cache."""
        import torch

        assert isinstance(work, RecurrentWork)
        sequences = work.prefills + work.decodes
        rows = max(sequences, int(self.room.cycled_bytes // work.state_bytes))
        if self.state is None or self.state.shape[0] < rows:
            self.state = self.part.states(rows)
        length = work.prefill_tokens // work.prefills if work.prefills else 0
        starts = torch.arange(work.prefills + 1, dtype=torch.int32) * length
        update = self.part.inputs(work.decodes) if work.decodes else None
        scan = self.part.inputs(length * work.prefills) if work.prefills else None
        found: list[Call] = []
        for _ in range(_PLACES):
            at = torch.randperm(self.state.shape[0], dtype=torch.int32)[:sequences]
            found.append(partial(self._run, update, scan, (at, work.decodes), starts))
        return found

    def _run(self, update: Any, scan: Any, at: tuple[Any, int], starts: Any) -> None:
        index, decodes = at
        if update is not None:
            self.part.update(self.state, update, index[:decodes])
        if scan is not None:
            self.part.scan(self.state, scan, index[decodes:], starts)


class _Convolution:
    """Depth-wise, over the channels of queries, keys and values."""

    def __init__(self, spec: Any, room: Room) -> None:
        from vllm import _custom_ops as ops

        self.spec = spec
        taps = random((spec.heads, spec.key_dim), spec.dtype, room.device)
        self.weight = ops.causal_conv1d_weight_pack(taps)

    def states(self, count: int) -> Any:
        shape = (count, self.spec.key_dim - 1, self.spec.heads)
        return random(shape, self.spec.dtype, "cpu").transpose(1, 2)

    def inputs(self, tokens: int) -> Any:
        return random((tokens, self.spec.heads), self.spec.dtype, "cpu")

    def update(self, state: Any, x: Any, at: Any) -> None:
        from vllm import _custom_ops as ops

        ops.causal_conv1d_update_cpu(x, state, self.weight, None, True, at, True)

    def scan(self, state: Any, x: Any, at: Any, starts: Any) -> None:
        import torch
        from vllm import _custom_ops as ops

        fresh = torch.zeros(len(at), dtype=torch.bool)
        ops.causal_conv1d_fwd_cpu(
            x.transpose(0, 1), self.weight, None, state, starts, at, fresh, True, True
        )


class _DeltaRule:
    """Gates, then the rule itself: in chunks for prefills, fused for decodes."""

    def __init__(self, spec: Any, room: Room) -> None:
        import torch

        self.spec = spec
        self.log = torch.rand(spec.heads, dtype=torch.float32)
        self.bias = torch.rand(spec.heads, dtype=torch.bfloat16)

    def states(self, count: int) -> Any:
        import torch

        shape = (count, self.spec.heads, self.spec.key_dim, self.spec.value_dim)
        return torch.empty(shape, dtype=torch.float32).normal_(0.0, 0.05)

    def inputs(self, tokens: int) -> Any:
        import torch

        spec = self.spec
        mixed = random((tokens, sum(self._widths())), spec.dtype, "cpu")
        gates = [random((tokens, spec.heads), spec.dtype, "cpu") for _ in range(2)]
        out = torch.zeros((tokens, spec.heads, spec.value_dim), dtype=mixed.dtype)
        return mixed, gates, out

    def _widths(self) -> tuple[int, int, int]:
        """Elements of a token's queries, keys and values."""
        spec = self.spec
        keys = _key_heads(spec) * spec.key_dim
        return keys, keys, spec.heads * spec.value_dim

    def _split(self, mixed: Any) -> list[Any]:
        """Queries, keys and values by head, each copied together as the layer does."""
        import torch

        spec, tokens = self.spec, mixed.shape[0]
        parts = torch.split(mixed, self._widths(), dim=-1)
        packed = torch.cat([part.reshape(-1) for part in parts], dim=0)
        sizes = [tokens * width for width in self._widths()]
        widths = spec.key_dim, spec.key_dim, spec.value_dim
        split = zip(packed.split(sizes), widths, strict=True)
        return [part.view(1, tokens, -1, width) for part, width in split]

    def update(self, state: Any, inputs: Any, at: Any) -> None:
        import torch
        from vllm import _custom_ops as ops

        mixed, (a, b), out = inputs
        starts = torch.arange(len(at) + 1, dtype=torch.int32)
        found = ops.fused_sigmoid_gating_delta_rule_update_cpu(
            self.log, self.bias, *self._split(mixed), a, b, state, at, starts, True
        )
        out[:] = found.view(out.shape)

    def scan(self, state: Any, inputs: Any, at: Any, starts: Any) -> None:
        from vllm import _custom_ops as ops

        mixed, (a, b), out = inputs
        q, k, v = self._split(mixed)
        g, beta = ops.fused_gdn_gating_cpu(self.log, a, b, self.bias)
        state[at.long()] = 0
        found, _ = ops.chunk_gated_delta_rule_cpu(
            q, k, v, g, beta, state, True, starts, False, True, at
        )
        out[:] = found.squeeze(0)


def _key_heads(spec: Any) -> int:
    """Heads of queries and keys, from the activations of a token: q, k, v, out and two gates."""
    rest = spec.token_elements - 2 * spec.heads * spec.value_dim - 2 * spec.heads
    found = round(rest / (2 * spec.key_dim))
    return found if 0 < found <= spec.heads and spec.heads % found == 0 else int(spec.heads)
