"""Recurrent mixers by torch: a stand-in that does the arithmetic of a chunked scan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.work import RecurrentWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.timer import Call

_CHUNK = 64


class Recurrent:
    """Linear attention in chunks for prefills, one rank-one update of the state a decode.

    A short convolution is a depth-wise one. Gates, decays and the delta rule's small triangular
    solves are left out: engines' kernels fuse them, so this bounds their time from below.
    """

    def __init__(self, spec: Any, room: Room) -> None:
        if room.device != "cpu":
            raise UnsupportedError("torch has no kernels of recurrent mixers for GPUs")
        self.spec, self.room = spec, room

    def calls(self, work: Work) -> Sequence[Call]:
        """Prefills, then decodes, each with states that come from memory."""
        assert isinstance(work, RecurrentWork)
        if work.recurrence == "short_conv":
            return self._convolutions(work)
        device, heads = self.room.device, work.heads
        key, value = work.key_dim, work.value_dim
        count = self.room.copies((work.decodes + work.prefills) * work.state_bytes)
        length = work.prefill_tokens // work.prefills if work.prefills else 0
        scan = [
            random((work.prefills, heads, length, width), work.dtype, device)
            for width in (key, key, value)
        ]
        step = [
            random((work.decodes, heads, 1, width), work.dtype, device)
            for width in (key, key, value)
        ]
        sequences = work.prefills + work.decodes
        states = copies(random((sequences, heads, key, value), work.dtype, device), count)
        return [partial(_mix, scan, step, state) for state in states]

    def _convolutions(self, work: RecurrentWork) -> Sequence[Call]:
        from torch.nn.functional import conv1d

        device, taps = self.room.device, work.key_dim
        length = work.prefill_tokens // work.prefills if work.prefills else 0
        weight = random((work.heads, 1, taps), work.dtype, device)
        inputs = []
        if work.prefills:
            shape = (work.prefills, work.heads, length + taps - 1)
            inputs.append(random(shape, work.dtype, device))
        if work.decodes:
            inputs.append(random((work.decodes, work.heads, taps), work.dtype, device))

        def run() -> None:
            for x in inputs:
                conv1d(x, weight, groups=work.heads)

        return [run]


def _mix(scan: Sequence[Any], step: Sequence[Any], state: Any) -> None:
    query, key, value = scan
    prefills = query.shape[0]
    memory = state[:prefills]
    for start in range(0, query.shape[2], _CHUNK):
        q, k, v = (x[:, :, start : start + _CHUNK] for x in (query, key, value))
        (q @ k.transpose(-1, -2)).tril() @ v + q @ memory
        memory = memory + k.transpose(-1, -2) @ v
    if step[0].shape[0]:
        q, k, v = step
        memory = state[prefills:]
        memory.mul_(0.9).add_(k.transpose(-1, -2) * v)
        q @ memory
