"""vLLM's routed experts: the whole layer but the choice of experts, which is the router's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import MoeWork, Work
from servesim.hardware.measure.bench import Room
from servesim.hardware.measure.kernels.moe import DRAWS, routing
from servesim.hardware.measure.kernels.tensors import random
from servesim.hardware.measure.kernels.vllm_setup import forget, in_forward, made
from servesim.hardware.measure.timer import Call

_NAME = "measured.experts"


class Experts:
    """Layers with packed weights, and a router that has chosen already."""

    def __init__(self, spec: Any, room: Room) -> None:
        self.spec, self.room = spec, room
        elements = spec.held * (3 if spec.gated else 2) * spec.hidden * spec.intermediate
        count = room.copies(elements * bytes_per_element(spec.weight))
        self.layers = [self._layer(f"{_NAME}.{i}") for i in range(count)]

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.tokens`` tokens through each of the layers."""
        import torch

        assert isinstance(work, MoeWork)
        x = random((work.tokens, work.hidden), work.dtype, self.room.device)
        logits = random((work.tokens, work.experts), work.dtype, self.room.device)
        in_forward({}, {})
        found: list[Call] = []
        for _ in range(DRAWS):
            for layer in self.layers:
                weights, chosen = routing(work, len(found), self.room.device)
                routed = weights.float(), chosen.to(torch.int32)
                found.append(partial(_run, layer, x, logits, routed))
        return found

    def _layer(self, name: str) -> Any:
        from vllm.model_executor.layers.fused_moe import FusedMoEFactory

        forget(name)
        spec = self.spec
        layer = made(
            lambda: FusedMoEFactory(
                spec.experts, spec.top_k, spec.hidden, spec.intermediate, prefix=name
            )
        )
        experts = layer.routed_experts
        for weight in experts.parameters():
            weight.data.normal_(0.0, 0.05)
        experts.quant_method.process_weights_after_loading(experts)
        return layer


def _run(layer: Any, x: Any, logits: Any, routed: Any) -> Any:
    layer.router.select_experts = lambda *_, **__: routed
    return layer(x, logits)
