"""What runs between two calls on a CPU, so that a kernel finds caches as it does in an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from servesim.graph.work import (
    AttentionWork,
    GemmWork,
    MemoryWork,
    MoeWork,
    RecurrentWork,
    Work,
)

#: Columns of a product's rows, and of its results: eight megabytes of weights.
_IN, _OUT = 1024, 4096
#: Products until the same weights are read again.
_PRODUCTS = 16


@dataclass(frozen=True, slots=True)
class Company:
    """What an operator of a step comes after.

    Attributes:
        kind: a product, a small operator, or nothing that matters.
        rows: of it; as many tokens are in the step.
    """

    kind: Literal["nothing", "small", "product"] = "nothing"
    rows: int = 1


ALONE = Company()


def company_of(work: Work) -> Company:
    """What ``work`` follows in a model: products and small operators take turns."""
    match work:
        case GemmWork() | MoeWork() | MemoryWork(kernel="copy"):
            return Company("small")
        case MemoryWork():
            return Company("product", max(1, work.rows // work.per_token))
        case AttentionWork():
            return Company("product", work.query_tokens)
        case RecurrentWork():
            return Company("product", work.prefill_tokens + work.decodes)
    return ALONE


class Neighbour:
    """Runs the operator before another: its code, operands and results push out others'."""

    def __init__(self) -> None:
        self._weights: list[Any] = []
        self._next = 0
        self._rows: dict[int, Any] = {}

    def run(self, company: Company) -> None:
        """Run what ``company`` says."""
        if company.kind == "nothing":
            return
        import torch

        x = self._inputs(company.rows)
        if company.kind == "small":
            torch.nn.functional.rms_norm(x, (_IN,))
            return
        self._next = (self._next + 1) % _PRODUCTS
        torch.nn.functional.linear(x, self._weights[self._next])

    def _inputs(self, rows: int) -> Any:
        import torch

        if not self._weights:
            shape, make = (_OUT, _IN), torch.bfloat16
            self._weights = [torch.full(shape, 0.01, dtype=make) for _ in range(_PRODUCTS)]
        if rows not in self._rows:
            self._rows = {rows: torch.ones(rows, _IN, dtype=torch.bfloat16)}
        return self._rows[rows]
