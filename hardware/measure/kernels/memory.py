"""Kernels that mostly move data, by torch: norms, rotary, activations, look-ups, sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.ops.gathered import GatheredKeys
from servesim.graph.work import MemoryWork, Work
from servesim.hardware.measure.bench import Bench, Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.timer import Call

#: Bytes of a table of embeddings that look-ups range over, at most.
_TABLE = 64e6


class Rows:
    """A kernel over rows: ``bind`` gives the call for so many tokens (or sequences)."""

    def __init__(self, bind: Callable[[int], Call]) -> None:
        self.bind = bind

    def calls(self, work: Work) -> Sequence[Call]:
        """One call: its operands were just written by the kernel before, and are not cycled."""
        assert isinstance(work, MemoryWork)
        return [self.bind(work.rows // work.per_token)]


class Gathered:
    """Keys, then values: picked by index out of a cache, or each repeated for more heads."""

    def __init__(self, spec: GatheredKeys, room: Room) -> None:
        self.spec, self.room = spec, room

    def calls(self, work: Work) -> Sequence[Call]:
        """Out of several caches; what is repeated was just gathered.

        Raises:
            UnsupportedError: the operands take more memory than there is room for.
        """
        import torch

        assert isinstance(work, MemoryWork)
        if work.bytes_read + work.bytes_written > self.room.most_bytes:
            raise UnsupportedError("the gathered keys take more memory than there is room for")
        shape = (2, work.rows, round(self.spec.reads / 2))
        cached = random(shape, self.spec.dtype, self.room.device)
        times = round(self.spec.writes / self.spec.reads)
        if times > 1:
            return [partial(_each, lambda half: half.repeat(1, times), cached)]
        index = torch.arange(work.rows, device=self.room.device)
        caches = copies(cached, self.room.copies(work.bytes_read))
        return [partial(_each, lambda half: half[index], cache) for cache in caches]


def _each(run: Callable[[Any], Any], halves: Any) -> list[Any]:
    return [run(half) for half in halves]


def norm(spec: Any, room: Room) -> Rows:
    """The norm of each group, after adding the residual and before the gate where there are."""
    from torch.nn.functional import layer_norm, rms_norm, silu

    weight = random((spec.width,), spec.dtype, room.device)

    def normed(x: Any) -> Any:
        if spec.function == "layer":
            return layer_norm(x, (spec.width,), weight, weight)
        return rms_norm(x, (spec.width,), weight + 1 if spec.function == "offset" else weight)

    def run(x: Any, added: Any, gate: Any) -> Any:
        x = normed(x if added is None else added.add_(x))
        return x * silu(gate) if gate is not None else x

    def bind(tokens: int) -> Call:
        shape = (tokens, spec.groups, spec.width)
        x, added, gate = copies(random(shape, spec.dtype, room.device), 3)
        return partial(run, x, added if spec.addends else None, gate if spec.gated else None)

    return Rows(bind)


def pointwise(spec: Any, room: Room) -> Bench:
    """Rotary, activation, router, copies of keys, or an addition or product of the same size."""
    if isinstance(spec, GatheredKeys):
        return Gathered(spec, room)
    activation = partial(_activation, gelu=spec.function == "gelu")
    kernels: dict[str, Callable[[Any, int], Any]] = {
        "rotary": _rotary,
        "activation": activation,
        "router": _router,
    }
    kernel = kernels.get(spec.kernel, _plain)
    width = max(2, round(spec.reads))

    def bind(tokens: int) -> Call:
        x = random((tokens, width), spec.dtype, room.device)
        return partial(kernel, x, max(1, round(spec.writes)))

    return Rows(bind)


def _rotary(x: Any, writes: int) -> Any:
    import torch

    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * 0.8 - second * 0.6, second * 0.8 + first * 0.6), dim=-1).to(x.dtype)


def _activation(x: Any, writes: int, gelu: bool) -> Any:
    """Of the first half, times the second, or of the whole where as much is written as read."""
    from torch.nn import functional

    function = functional.gelu if gelu else functional.silu
    if writes >= x.shape[-1]:
        return function(x)
    return function(x[..., :writes]) * x[..., -writes:]


def _router(x: Any, writes: int) -> Any:
    import torch

    chosen = min(writes, x.shape[-1])
    weights, experts = torch.topk(torch.softmax(x.float(), dim=-1), chosen)
    return weights / weights.sum(-1, keepdim=True), experts


def _plain(x: Any, writes: int) -> Any:
    first = x[..., :writes]
    return first + x[..., -writes:] if 2 * writes <= x.shape[-1] else first * 1.5


def embedding(spec: Any, room: Room) -> Rows:
    """Random rows of a table."""
    import torch

    rows = max(1, min(spec.rows, int(_TABLE // (2 * spec.width))))
    table = random((rows, spec.width), spec.dtype, room.device)

    def bind(tokens: int) -> Call:
        index = torch.randint(rows, (tokens,), device=room.device)
        return partial(torch.nn.functional.embedding, index, table)

    return Rows(bind)


def sampler(spec: Any, room: Room) -> Rows:
    """Greedy choice on 32-bit copies of the logits."""

    def run(logits: Any) -> Any:
        return logits.float().argmax(dim=-1)

    return Rows(lambda rows: partial(run, random((rows, spec.vocab), "bf16", room.device)))
