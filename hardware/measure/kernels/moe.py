"""Routed experts by torch: the rows of each expert gathered, multiplied and added up.

On a GPU by grouped products, which need no word from the host; on a CPU expert by expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import MoeWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.tensors import copies, random
from servesim.hardware.measure.timer import Call

#: Times the copies go round, each time with other experts chosen: those of few tokens would
#: otherwise stay in a cache.
DRAWS = 8


def routing(work: MoeWork, draw: int, device: str) -> tuple[Any, Any]:
    """Weights and distinct experts of each token, spread evenly: other ones for each ``draw``."""
    import torch

    generator = torch.Generator(device).manual_seed(1000 * work.tokens + draw)
    scores = torch.rand((work.tokens, work.experts), device=device, generator=generator)
    weights, chosen = scores.topk(work.top_k, dim=-1)
    return weights / weights.sum(-1, keepdim=True), chosen


class Experts:
    """Gate, up and down products of each expert that has tokens."""

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        wide = (2 if spec.gated else 1) * spec.intermediate
        up = random((spec.held, wide, spec.hidden), spec.weight, room.device)
        down = random((spec.held, spec.hidden, spec.intermediate), spec.weight, room.device)
        each = (up.numel() + down.numel()) * bytes_per_element(spec.weight)
        count = room.copies(each)
        self.weights = list(zip(copies(up, count), copies(down, count), strict=True))

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.tokens`` tokens through each copy of the experts."""
        assert isinstance(work, MoeWork)
        x = random((work.tokens, work.hidden), work.dtype, self.room.device)
        run = self._grouped if self.room.device == "cuda" else self._run
        return [
            partial(run, x, up, down, *routing(work, draw, self.room.device))
            for draw, (up, down) in enumerate(DRAWS * self.weights)
        ]

    def _grouped(self, x: Any, up: Any, down: Any, weights: Any, chosen: Any) -> Any:
        import torch
        from torch.nn.functional import silu

        flat = chosen.flatten()
        order = flat.argsort()
        experts = torch.arange(up.shape[0], device=x.device)
        ends = (flat == experts[:, None]).sum(1).cumsum(0, dtype=torch.int32)
        token = order // self.spec.top_k
        y = torch._grouped_mm(x[token], up.transpose(1, 2), offs=ends)
        if self.spec.gated:
            gate, y = y.chunk(2, dim=-1)
            y = silu(gate) * y
        y = torch._grouped_mm(y, down.transpose(1, 2), offs=ends)
        y = y * weights.flatten()[order, None].to(x.dtype)
        return torch.zeros_like(x).index_add_(0, token, y)

    def _run(self, x: Any, up: Any, down: Any, weights: Any, chosen: Any) -> Any:
        import torch
        from torch.nn.functional import linear, silu

        out = torch.zeros_like(x)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=up.shape[0]).tolist()
        start = 0
        for expert, count in enumerate(counts):
            if count:
                pairs = order[start : start + count]
                token = pairs // self.spec.top_k
                y = linear(x[token], up[expert])
                if self.spec.gated:
                    gate, y = y.chunk(2, dim=-1)
                    y = silu(gate) * y
                y = linear(y, down[expert]) * weights.flatten()[pairs, None].to(x.dtype)
                out.index_add_(0, token, y)
            start += count
        return out
