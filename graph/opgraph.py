"""A model as an ordered list of blocks of operators; equal layers are stored once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from servesim.graph.op import STREAM, Op


@dataclass(frozen=True, slots=True)
class Block:
    """Operators in execution order, and how often the model runs them.

    Attributes:
        layers: indices of the decoder layers that are this block; empty for what stands outside
            the layers (embedding, final norm and LM head), which runs once.
    """

    name: str
    ops: tuple[Op, ...]
    layers: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Times the block runs in one forward pass."""
        return len(self.layers) or 1


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """What equal layers keep for a sequence between steps, on one device.

    Attributes:
        kind: ``full``, ``window``, ``chunked``, ``latent`` or ``state``.
        layers: indices of the layers.
        bytes_per_token: KV bytes a token takes in one layer (0 for ``state``).
        window: tokens kept, for ``window`` and ``chunked``.
        state_bytes: bytes of one sequence's state in one layer, for ``state``.
    """

    kind: str
    layers: tuple[int, ...]
    bytes_per_token: float
    window: int | None = None
    state_bytes: float = 0.0


@dataclass(frozen=True)
class OpGraph:
    """A traced model, canonicalised, for one rank of a tensor-parallel group.

    Attributes:
        parameters, active_parameters: of the whole model, whatever the sharding; *active* counts
            what one token passes through.
        max_model_len: longest context the config allows.
        weight_bytes: on one rank.
    """

    model: str
    blocks: tuple[Block, ...]
    caches: tuple[CacheGroup, ...]
    parameters: int
    active_parameters: int
    weight_bytes: float
    hidden_size: int
    vocab_size: int
    max_model_len: int
    dtype: str = "bf16"
    tensor_parallel_size: int = 1
    notes: tuple[str, ...] = field(default=())

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return sum(len(block.layers) for block in self.blocks)

    @property
    def kv_bytes_per_token(self) -> float:
        """KV bytes a token takes over all layers on one rank."""
        return sum(len(c.layers) * c.bytes_per_token for c in self.caches)

    @property
    def operator_weight_bytes(self) -> float:
        """Bytes of the weights that operators hold on one rank; ``weight_bytes`` adds what none
        does (a vision tower traced with the model).
        """
        return sum(op.spec.weight_bytes * count for op, count in self.weighted_ops())

    @property
    def state_bytes_per_sequence(self) -> float:
        """Bytes of the fixed-size states of one sequence over all layers on one rank."""
        return sum(len(c.layers) * c.state_bytes for c in self.caches)

    def lint(self) -> None:
        """Check the graph; called after every pass.

        Raises:
            ValueError: a name is used twice in a block, an operator reads what does not precede
                it, or the layers are not each in exactly one block.
        """
        for block in self.blocks:
            known = {STREAM}
            for op in block.ops:
                if op.name in known:
                    raise ValueError(f"{block.name}: two operators are called {op.name!r}")
                missing = [name for name in op.inputs if name not in known]
                if missing:
                    raise ValueError(f"{block.name}: {op.name!r} reads {missing} before they are")
                known.add(op.name)
        layers = sorted(layer for block in self.blocks for layer in block.layers)
        if layers != list(range(len(layers))):
            raise ValueError(f"{self.model}: the blocks do not hold every layer once: {layers}")

    def weighted_ops(self) -> Iterator[tuple[Op, int]]:
        """Each stored operator with the times it runs in one forward pass."""
        for block in self.blocks:
            for op in block.ops:
                yield op, block.count
