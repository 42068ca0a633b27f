"""Counts, inside vLLM's process, which experts tokens go to; imports nothing of servesim.

Routers of random weights have favourites, and a step takes the longer the more experts it touches.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

try:
    from vllm.model_executor.layers.fused_moe.router.fused_moe_router import FusedMoERouter
except ImportError:  # an older vLLM: nothing is counted

    class FusedMoERouter:  # type: ignore[no-redef]
        """Asked by nobody."""

        select_experts: Any = None


#: Tokens after which nothing is counted any more: counting takes time.
_ENOUGH = 4096


class ExpertCounts:
    """Tokens by layer, in the order that layers run, and expert."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[int, Counter[int]]] = {}
        self._seen = self._told = 0
        self._counting = False
        self._original = FusedMoERouter.select_experts
        counts = self

        def select_experts(router: Any, *args: Any, **kwargs: Any) -> Any:
            weights, experts = counts._original(router, *args, **kwargs)
            if counts._counting:
                counts._count(router, experts.flatten().tolist())
            return weights, experts

        FusedMoERouter.select_experts = select_experts

    def before_step(self, requests: int, tokens: int) -> None:
        """Count the step that comes if there are several requests in it, as in no warm-up."""
        if self._seen >= _ENOUGH:
            FusedMoERouter.select_experts = self._original
        self._counting = requests > 1 and self._seen < _ENOUGH
        self._seen += tokens * self._counting

    def _count(self, router: Any, chosen: list[int]) -> None:
        _, layer = self._layers.setdefault(id(router), (router.global_num_experts, Counter()))
        layer.update(chosen)

    def news(self) -> list[list[int]]:
        """Tokens of each expert, if more were counted since somebody asked.

        No rows without experts, or where the model runs elsewhere.
        """
        if self._told == self._seen:
            return []
        self._told = self._seen
        return [[layer[i] for i in range(experts)] for experts, layer in self._layers.values()]
