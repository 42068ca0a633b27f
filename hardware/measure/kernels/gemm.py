"""Linear layers, and the per-head products of absorbed latent attention, by torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import GemmWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.timer import Call


class Linear:
    """``x @ w.T`` of a Gemm, LM head or latent expansion."""

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        first = random((spec.n, spec.k), spec.weight, room.device)
        self.weights = copies(first, room.copies(spec.n * spec.k * bytes_per_element(spec.weight)))
        self.bias = random((spec.n,), spec.dtype, room.device) if spec.bias else None

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.m`` rows through each copy of the weights."""
        from torch.nn.functional import linear

        assert isinstance(work, GemmWork)
        x = random((work.m, work.k), work.dtype, self.room.device)
        return [partial(linear, x, weight, self.bias) for weight in self.weights]


class Batched:
    """A product for each head: ``bmm``."""

    def __init__(self, spec: Any, room: Room) -> None:
        self.room = room
        first = random((spec.heads, spec.k, spec.n), spec.weight, room.device)
        each = spec.heads * spec.k * spec.n * bytes_per_element(spec.weight)
        self.weights = copies(first, room.copies(each))

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.m`` rows a head with each copy of the weights."""
        import torch

        assert isinstance(work, GemmWork)
        x = random((work.m, work.batch, work.k), work.dtype, self.room.device).transpose(0, 1)
        return [partial(torch.bmm, x, weight) for weight in self.weights]
