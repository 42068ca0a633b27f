"""The work of one kernel: what a cost model is asked about.

A ``Work`` says what is computed on one device (after sharding) for one batch: sizes and formats,
never where or how long. Every family gives ``flops`` (a multiply-add is two), ``bytes_read`` and
``bytes_written`` (to and from device memory, each operand once), so that a roofline needs nothing
else; calibrated cost models look at the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from servesim.graph.attention_work import AttentionWork, attended_pairs
from servesim.graph.dtypes import bytes_per_element

__all__ = [
    "AttentionWork",
    "CollectiveWork",
    "GemmWork",
    "MemoryWork",
    "MoeWork",
    "RecurrentWork",
    "Work",
    "attended_pairs",
]


@runtime_checkable
class Work(Protocol):
    """What every family of work answers."""

    family: ClassVar[str]

    @property
    def label(self) -> str:
        """The operator's serving name, e.g. ``qkv_proj``; tables are keyed by it."""

    @property
    def dtype(self) -> str:
        """Number format of the arithmetic."""

    @property
    def flops(self) -> float:
        """Floating-point (or integer) operations."""

    @property
    def bytes_read(self) -> float:
        """Bytes read from device memory."""

    @property
    def bytes_written(self) -> float:
        """Bytes written to device memory."""


@dataclass(frozen=True, slots=True)
class GemmWork:
    """``batch`` products of (m x k) by (k x n).

    Attributes:
        weight: number format of the weights as stored (``bf16``, ``fp8``, ``int4``, ...).
        scale_bytes: bytes of scales and zero points read beside the weights.
        label: serving name of the operator.
    """

    family: ClassVar[str] = "gemm"
    m: int
    n: int
    k: int
    dtype: str = "bf16"
    weight: str = "bf16"
    batch: int = 1
    scale_bytes: float = 0.0
    label: str = ""

    @property
    def flops(self) -> float:
        """2·m·n·k for each product."""
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights with their scales."""
        return self.batch * self.n * self.k * bytes_per_element(self.weight) + self.scale_bytes

    @property
    def bytes_read(self) -> float:
        """Weights and input activations, each once."""
        return self.weight_bytes + self.batch * self.m * self.k * bytes_per_element(self.dtype)

    @property
    def bytes_written(self) -> float:
        """Output activations, 16-bit (accumulators are rounded on the way out)."""
        return 2.0 * self.batch * self.m * self.n


@dataclass(frozen=True, slots=True)
class MoeWork:
    """Routed experts of one layer on one device: grouped GEMMs with gather and weighted sum.

    Attributes:
        tokens: tokens entering the layer on this device.
        pairs: (token, expert) pairs computed on this device (tokens·top_k without sharding).
        touched: local experts that get at least one token (their weights are read).
        experts, top_k: local experts, experts a token.
        hidden, intermediate: width of the model and of one expert on this device.
        gated: gate and up projections (three matrices an expert) instead of up alone (two).
        distribution: how tokens spread over experts: ``uniform`` or e.g. ``power_law_1.2``.
    """

    family: ClassVar[str] = "moe"
    tokens: int
    pairs: float
    touched: float
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    gated: bool = True
    dtype: str = "bf16"
    weight: str = "bf16"
    scale_bytes_per_expert: float = 0.0
    distribution: str = "uniform"
    label: str = "experts"

    @property
    def matrices(self) -> int:
        """Weight matrices of one expert."""
        return 3 if self.gated else 2

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert's weights on this device."""
        elements = self.matrices * self.hidden * self.intermediate
        return elements * bytes_per_element(self.weight) + self.scale_bytes_per_expert

    @property
    def flops(self) -> float:
        """2·pairs·matrices·hidden·intermediate."""
        return 2.0 * self.pairs * self.matrices * self.hidden * self.intermediate

    @property
    def bytes_read(self) -> float:
        """Touched experts' weights once and the gathered inputs."""
        inputs = self.pairs * (self.hidden + self.intermediate) * bytes_per_element(self.dtype)
        return self.touched * self.expert_bytes + inputs

    @property
    def bytes_written(self) -> float:
        """Intermediate activations and outputs."""
        return self.pairs * (self.hidden + self.intermediate) * bytes_per_element(self.dtype)


@dataclass(frozen=True, slots=True)
class RecurrentWork:
    """A recurrent mixer with a fixed-size state per sequence.

    Attributes:
        recurrence: ``selective_scan``, ``ssd``, ``gated_delta``, ``linear_attention``,
            ``short_conv``, ``rwkv``, ``rg_lru``, ...
        prefill_tokens, prefills: new tokens of all prefills and how many prefills.
        decodes: sequences with one new token.
        heads, key_dim, value_dim: heads on this device, width of a key and of a value head.
        flops_per_token: arithmetic for one token in this layer.
        token_bytes: activations read and written for one token.
        state_bytes: state of one sequence in this layer on this device.
    """

    family: ClassVar[str] = "recurrent"
    recurrence: str
    prefill_tokens: int
    prefills: int
    decodes: int
    heads: int
    key_dim: int
    value_dim: int
    flops_per_token: float
    token_bytes: float
    state_bytes: float
    dtype: str = "bf16"
    label: str = "recurrent"

    @property
    def flops(self) -> float:
        """Arithmetic of all new tokens."""
        return (self.prefill_tokens + self.decodes) * self.flops_per_token

    @property
    def bytes_read(self) -> float:
        """States once per sequence, and half of the activations."""
        states = (self.prefills + self.decodes) * self.state_bytes
        return states + (self.prefill_tokens + self.decodes) * self.token_bytes / 2

    @property
    def bytes_written(self) -> float:
        """As much as is read: states and activations go back."""
        return self.bytes_read


@dataclass(frozen=True, slots=True)
class MemoryWork:
    """A kernel that moves data and computes little: norms, rotary, activations, look-ups, copies.

    Attributes:
        kernel: ``norm``, ``rotary``, ``activation``, ``embedding``, ``sampler``, ``router``,
            ``elementwise``, ``copy``.
        rows: rows (tokens or sequences, times ``per_token``).
        per_token: rows of one token or sequence (the heads of a per-head norm).
    """

    family: ClassVar[str] = "memory"
    kernel: str
    rows: int
    bytes_read: float
    bytes_written: float
    flops: float = 0.0
    dtype: str = "bf16"
    label: str = ""
    per_token: int = 1


@dataclass(frozen=True, slots=True)
class CollectiveWork:
    """A collective among ``ranks`` devices of a parallel group.

    Attributes:
        operation: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``send``,
            ``broadcast``.
        payload_bytes: as nccl-tests counts: the whole buffer of one rank (all_reduce, broadcast,
            send, all_to_all), the gathered result (all_gather) or the input (reduce_scatter).
        group: which parallel group: ``tp``, ``ep``, ``dp``, ``pp``, ``cp``.
    """

    family: ClassVar[str] = "collective"
    operation: str
    payload_bytes: float
    ranks: int
    group: str = "tp"
    dtype: str = "bf16"
    label: str = ""

    @property
    def flops(self) -> float:
        """Collectives count no arithmetic."""
        return 0.0

    @property
    def bytes_read(self) -> float:
        """The local buffer once."""
        return self.payload_bytes

    @property
    def bytes_written(self) -> float:
        """The local buffer once."""
        return self.payload_bytes
