"""The use of single steps, for loops that ask one after another."""

from __future__ import annotations

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT, SEQUENCES
from servesim.runtime.energy.columns import SUMS, features_of, sums_of
from servesim.runtime.energy.use import COMPUTE, MEMORY, OpUse


class StepUse:
    """What operators use in a step, as plain numbers; answers are remembered."""

    def __init__(self, uses: tuple[OpUse, ...]) -> None:
        self._tabled = [one for one in uses if one.depends != CONTEXT]
        self._fixed: dict[tuple[int, int], tuple[float, float]] = {}
        self._rates: dict[float | None, list[tuple[float, float]]] = {}
        self._repeating = [one for one in uses if one.depends == CONTEXT and one.repeated.any()]
        for one in uses:
            if one.depends == CONTEXT:
                before = self._rates.get(one.window, [(0.0, 0.0)] * len(one.coefficients))
                self._rates[one.window] = [
                    (memory + more[MEMORY], compute + more[COMPUTE])
                    for (memory, compute), more in zip(
                        before, one.coefficients.tolist(), strict=True
                    )
                ]

    def of(self, batch: BatchShape) -> tuple[float, float]:
        """Seconds at full bandwidth, and at peak arithmetic."""
        memory, compute = self._fixed_use(batch.tokens, batch.sequences)
        for one in self._repeating if batch.repeated_context else ():
            near = batch.repeated_context * float(one.near(batch.shared_context))
            memory += near * float(one.repeated[MEMORY])
        sums = sums_of(batch)
        for window, rates in self._rates.items():
            for count, (of_memory, of_compute) in zip(
                features_of(sums, window), rates, strict=True
            ):
                memory += count * of_memory
                compute += count * of_compute
        return memory, compute

    def of_decodes(self, decodes: int) -> tuple[float, float]:
        """As ``of``, of so many decodes without any context."""
        return self.of(BatchShape((), decodes, 0, 0))

    def per_context(self) -> tuple[float, float]:
        """What a token of context adds to a decode's use, as long as no window clips it."""
        index = SUMS.index("decode_context")
        rates = [rates[index] for rates in self._rates.values()]
        return sum(memory for memory, _ in rates), sum(compute for _, compute in rates)

    def _fixed_use(self, tokens: int, sequences: int) -> tuple[float, float]:
        key = tokens, sequences
        if key not in self._fixed:
            parts = [
                one.known(sequences if one.depends == SEQUENCES else tokens) for one in self._tabled
            ]
            self._fixed[key] = sum(p[MEMORY] for p in parts), sum(p[COMPUTE] for p in parts)
        return self._fixed[key]
