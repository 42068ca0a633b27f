"""Routed experts of a mixture-of-experts layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.expert_load import ExpertLoad
from servesim.graph.op import GROUP, TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import split_units
from servesim.graph.work import MoeWork


@KINDS.register("experts")
@dataclass(frozen=True, slots=True)
class Experts:
    """Each token through ``top_k`` of ``experts`` MLPs.

    Attributes:
        local_experts: experts held on this device (all without expert parallelism).
        scale_bytes: scales and zero points of one expert's quantised weights.
        distribution: how tokens spread over experts: ``uniform`` or e.g. ``power_law_1.2``.
        parallel: ``replicated``, ``row`` (every expert's width split) or ``expert``.
    """

    kind: ClassVar[str] = "experts"
    depends: ClassVar[str] = TOKENS
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    gated: bool = True
    bias: bool = False
    local_experts: int = 0
    dtype: str = "bf16"
    weight: str = "bf16"
    scale_bytes: float = 0.0
    distribution: str = "uniform"
    parallel: str = "replicated"

    @property
    def held(self) -> int:
        """Experts on this device."""
        return self.local_experts or self.experts

    @property
    def shape(self) -> tuple[int, ...]:
        """experts held, top_k, hidden, intermediate."""
        return (self.held, self.top_k, self.hidden, self.intermediate)

    def work(self, batch: BatchShape, label: str) -> MoeWork:
        """Grouped GEMMs; the experts touched are those expected of uniform routing."""
        tokens, share = batch.tokens, self.held / self.experts
        untouched = (1 - self.top_k / self.experts) ** tokens
        return MoeWork(
            tokens=tokens,
            pairs=tokens * self.top_k * share,
            touched=self.held * (1 - untouched),
            experts=self.held,
            top_k=self.top_k,
            hidden=self.hidden,
            intermediate=self.intermediate,
            gated=self.gated,
            dtype=self.dtype,
            weight=self.weight,
            scale_bytes_per_expert=self.scale_bytes,
            distribution=self.distribution,
            label=label,
        )

    @property
    def matrix_elements(self) -> int:
        """Weight-matrix elements of one expert."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def bias_elements(self) -> int:
        """Bias elements of one expert."""
        columns = (2 if self.gated else 1) * self.intermediate + self.hidden
        return columns * self.bias

    @property
    def weight_elements(self) -> int:
        """Of all experts held."""
        return self.held * (self.matrix_elements + self.bias_elements)

    @property
    def weight_bytes(self) -> float:
        """Of all experts held."""
        one = self.matrix_elements * bytes_per_element(self.weight) + self.scale_bytes
        return self.held * (one + self.bias_elements * bytes_per_element(self.dtype))

    def local(self, ranks: int) -> Experts:
        """Every expert's width dealt to ``ranks`` ranks.

        Raises:
            UnsupportedError: the width does not divide.
        """
        width = split_units("width of an expert", self.intermediate, ranks)
        return replace(
            self, intermediate=width, parallel="row", scale_bytes=self.scale_bytes / ranks
        )

    def by_expert(self, ranks: int) -> Experts:
        """Whole experts dealt to ``ranks`` ranks (expert parallelism).

        Raises:
            UnsupportedError: the experts do not divide.
        """
        held = split_units("experts", self.held, ranks)
        return replace(self, local_experts=held, parallel="expert")


@dataclass(frozen=True, slots=True)
class PooledExperts(Experts):
    """Experts on the ranks of a data-parallel group, or of known load: part of a placed graph.

    Attributes:
        replicas: data-parallel ranks whose tokens meet here.
        gathered: every rank sees the tokens of all, whichever experts they go to.
        load: how the experts are chosen and where they lie; the rank that gets most of a step is
            the one that is costed, as the others wait for it. None where every rank has a slice
            of every expert.
    """

    kind: ClassVar[str] = "experts"
    depends: ClassVar[str] = GROUP
    replicas: int = 1
    gathered: bool = True
    load: ExpertLoad | None = None

    def work(self, batch: BatchShape, label: str) -> MoeWork:
        """Grouped GEMMs of the rank with most pairs."""
        tokens = batch.group_tokens or batch.tokens * self.replicas
        plain = Experts.work(self, BatchShape.of_tokens(tokens), label)
        if self.load is None:
            return plain
        pairs = self.load.pairs(tokens)
        seen = tokens if self.gathered else math.ceil(pairs / self.top_k)
        return replace(plain, tokens=seen, pairs=pairs, touched=self.load.touched(tokens))
