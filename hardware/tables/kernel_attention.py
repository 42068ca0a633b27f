"""Attention measured in batches of equal decodes and of equal fresh prompts, for any batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from servesim.graph.work import AttentionWork
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.tables.plane import Plane


@dataclass(frozen=True)
class KernelAttention:
    """What was measured of one attention shape.

    What differs from the measured batches (unequal sequences, prompts on a context, prompts beside
    decodes) differs by the factor that a cost model gives for it; only what does not is *measured*.

    Attributes:
        decode: seconds by decodes and the context of each.
        prefill: seconds by fresh prompts and the tokens of each.
    """

    decode: Plane | None = None
    prefill: Plane | None = None

    def cost(self, work: AttentionWork, model: CostModel) -> Cost:
        """The cost of ``work``, with what ``model`` says of what was not measured.

        Raises:
            UnsupportedError: the model cannot run such work.
        """
        if work.prefills and work.decodes:
            return self._mixed(work, model)
        if work.decodes:
            return self._decodes(work, model)
        return self._prompts(work, model)

    def _mixed(self, work: AttentionWork, model: CostModel) -> Cost:
        """One after the other, and the model's factor for both at once."""
        apart = _with_decodes(work, 0, 0), replace(work, prefills=())
        seconds = sum(self.cost(one, model).seconds for one in apart)
        at_once, alone = model.cost(work), sum(model.cost(one).seconds for one in apart)
        return Cost(seconds * at_once.seconds / alone, at_once.source)

    def _decodes(self, work: AttentionWork, model: CostModel) -> Cost:
        if self.decode is None:
            return model.cost(work)
        mean = round(work.decode_keys / work.decodes) - 1
        equal = _with_decodes(work, work.decodes, mean + 1)
        inside = not work.repeated_keys and self.decode.covers(work.decodes, mean)
        if inside and work.decode_keys_max > mean + 1:
            inside = self.decode.covers(work.decodes, work.decode_keys_max - 1)

        def alike(decodes: int, context: int) -> float:
            return model.cost(_with_decodes(work, decodes, context + 1)).seconds

        return _scaled(self.decode.at(work.decodes, mean, alike), work, equal, model, inside)

    def _prompts(self, work: AttentionWork, model: CostModel) -> Cost:
        if self.prefill is None:
            return model.cost(work)
        count = len(work.prefills)
        tokens = max(1, round(sum(new for new, _ in work.prefills) / count))
        equal = _fresh_prompts(work, count, tokens)

        def alike(prompts: int, new: int) -> float:
            return model.cost(_fresh_prompts(work, prompts, new)).seconds

        inside = work == equal and self.prefill.covers(count, tokens)
        return _scaled(self.prefill.at(count, tokens, alike), work, equal, model, inside)


def _scaled(
    seconds: float, work: AttentionWork, equal: AttentionWork, model: CostModel, inside: bool
) -> Cost:
    """``seconds`` of ``equal``, for ``work``; ``inside``: measured all the same."""
    if inside and work == equal:
        return Cost(seconds, Source.MEASURED)
    cost = model.cost(work)
    if work != equal:
        seconds *= cost.seconds / model.cost(equal).seconds
    return Cost(seconds, Source.MEASURED if inside else cost.source)


def _with_decodes(work: AttentionWork, decodes: int, keys: int) -> AttentionWork:
    """``work`` with decodes that read as many keys each and share none."""
    return replace(
        work,
        decodes=decodes,
        decode_keys=decodes * keys,
        decode_keys_max=keys,
        shared_keys=0,
        repeated_keys=0,
    )


def _fresh_prompts(work: AttentionWork, prompts: int, new: int) -> AttentionWork:
    return replace(work, prefills=((new, 0),) * prompts, causal=True)
