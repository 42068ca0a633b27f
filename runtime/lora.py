"""Which LoRA adapters are on the device: at most ``max_loras``, loaded as requests need them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from servesim.runtime.sequence import Sequence


class AdapterSlots:
    """The adapters of running sequences, and idle ones that nothing has replaced yet.

    As in vLLM: a waiting sequence whose adapter would be one too many in the step is passed over
    for those behind it, and the adapter that was idle longest makes room for a new one.
    """

    def __init__(self, max_loras: int) -> None:
        self.max_loras = max_loras
        self._running: Counter[int] = Counter()
        self._step: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()  # on the device, the oldest first

    def start_step(self, seqs: Iterable[Sequence]) -> None:
        """Learn which running sequences are in the step to which others may be admitted."""
        self._step = {seq.spec.adapter for seq in seqs if seq.spec.adapter is not None}

    def admits(self, seq: Sequence) -> bool:
        """Whether its adapter is in the step, or may be."""
        adapter = seq.spec.adapter
        return adapter is None or adapter in self._step or len(self._step) < self.max_loras

    def enter(self, seq: Sequence) -> bool:
        """Note that ``seq`` runs; returns whether its adapter must be loaded."""
        adapter = seq.spec.adapter
        if adapter is None:
            return False
        self._step.add(adapter)
        self._running[adapter] += 1
        if self._running[adapter] > 1:
            return False
        if adapter in self._idle:
            del self._idle[adapter]
            return False
        if self._idle and len(self._idle) + len(self._running) > self.max_loras:
            self._idle.popitem(last=False)
        return True

    def leave(self, seq: Sequence) -> None:
        """Note that ``seq`` runs no more."""
        adapter = seq.spec.adapter
        if adapter is None:
            return
        self._running[adapter] -= 1
        if not self._running[adapter]:
            del self._running[adapter]
            if len(self._running) + len(self._idle) < self.max_loras:
                self._idle[adapter] = None
