"""Linear layers, and the per-head products of absorbed latent attention, by torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import GemmWork, Work
from servesim.hardware.measure.bench import Bench, Room
from servesim.hardware.measure.kernels.tensors import copies, eight_bit, random, scales
from servesim.hardware.measure.timer import Call

#: Of columns, as torch's 8-bit products want them.
_MULTIPLE = 16


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


class Scaled:
    """The product of 8-bit floats on a GPU, with a scale a row and a column."""

    def __init__(self, spec: Any, room: Room) -> None:
        if spec.n % _MULTIPLE or spec.k % _MULTIPLE:
            raise UnsupportedError(f"8-bit products take multiples of {_MULTIPLE} rows and columns")
        self.spec, self.room = spec, room
        first = eight_bit((spec.n, spec.k), room.device)
        self.weights = copies(first, room.copies(spec.n * spec.k))
        self.scales = scales((1, spec.n), room.device)

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.m`` rows through each copy of the weights: the second operand by columns."""
        import torch

        assert isinstance(work, GemmWork)
        x = eight_bit((work.m, work.k), self.room.device)
        rows = scales((work.m, 1), self.room.device)
        multiply = partial(torch._scaled_mm, scale_a=rows, scale_b=self.scales)
        return [partial(multiply, x, w.t(), out_dtype=torch.bfloat16) for w in self.weights]


def linear(spec: Any, room: Room) -> Bench:
    """The bench of a linear layer in its number format."""
    eight_bits = room.device == "cuda" and (spec.dtype, spec.weight) == ("fp8", "fp8")
    return Scaled(spec, room) if eight_bits else Linear(spec, room)


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
