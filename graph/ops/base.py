"""What operator kinds share: who holds which weights, and how widths split among ranks."""

from __future__ import annotations

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import bytes_per_element


class Weightless:
    """A spec that holds no weights of its own."""

    __slots__ = ()

    @property
    def weight_elements(self) -> int:
        """None."""
        return 0

    @property
    def weight_bytes(self) -> float:
        """None."""
        return 0.0


class HoldsWeights:
    """A spec with ``weights`` elements of its own (scales, taps, biases), never quantised."""

    __slots__ = ()
    weights: int
    dtype: str

    @property
    def weight_elements(self) -> int:
        """All of them, on this device."""
        return self.weights

    @property
    def weight_bytes(self) -> float:
        """In the format of the arithmetic."""
        return self.weights * bytes_per_element(self.dtype)


class HoldsMatrix:
    """A spec with an n x k matrix and perhaps a bias a column, or with another operator's."""

    __slots__ = ()
    n: int
    k: int
    bias: bool
    dtype: str
    weight: str
    scale_bytes: float
    tied: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """n, k."""
        return (self.n, self.k)

    @property
    def weight_elements(self) -> int:
        """n·k and the bias; none when tied."""
        return 0 if self.tied else self.n * self.k + self.n * self.bias

    @property
    def weight_bytes(self) -> float:
        """Matrix in its format with scales, the bias in the arithmetic's; none when tied."""
        if self.tied:
            return 0.0
        matrix = self.n * self.k * bytes_per_element(self.weight) + self.scale_bytes
        return matrix + self.n * self.bias * bytes_per_element(self.dtype)


def split_units(what: str, units: int, ranks: int) -> int:
    """Units (heads, columns, rows of a table) of one rank.

    Raises:
        UnsupportedError: ``units`` do not divide evenly.
    """
    if units % ranks:
        raise UnsupportedError(
            f"{what}: {units} do not divide among {ranks} tensor-parallel ranks; "
            f"use a tensor_parallel_size that divides {units}"
        )
    return units // ranks


def split_kv_heads(kv_heads: int, ranks: int) -> int:
    """Key/value heads of one rank; with fewer heads than ranks each head has several holders.

    Raises:
        UnsupportedError: neither divides the other.
    """
    if kv_heads < ranks and ranks % kv_heads == 0:
        return 1
    return split_units("key/value heads", kv_heads, ranks)
