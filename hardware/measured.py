"""Kernels of exactly the shapes that were measured on this machine; other models for the rest.

A device file's ``[measured]`` table holds, by family and shape, either a curve of seconds over
rows (products, experts, kernels that move data) or a sum of named terms (attention, recurrent
mixers), in which sequences simply add up. The latter is how one core, or few, work a batch off;
where it predicts a device worse than the calibrated form, a device file has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork, Work
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.device import Device
from servesim.hardware.tables.grid import Curve

Terms = Mapping[str, float]

#: Families whose shapes have a curve each, and those that have a sum.
CURVES, SUMS = ("gemm", "moe", "memory"), ("attention", "recurrent")


@dataclass(frozen=True)
class MeasuredCost:
    """Costs by shape: measured where there is a curve or sum, ``fallback`` elsewhere.

    Never faster than the device's peak arithmetic, nor than its memory delivers what exceeds its
    cache.

    Attributes:
        curves, sums: by family and shape, see `shape_of`.
    """

    device: Device
    curves: Mapping[tuple[str, str], Curve]
    sums: Mapping[tuple[str, str], Terms]
    fallback: CostModel

    @classmethod
    def from_table(cls, device: Device, table: Mapping[str, Any], fallback: CostModel) -> CostModel:
        """The cost model of a device file's ``[measured]`` table.

        Raises:
            UnknownNameError: an unknown family or term.
            InputError: a curve or sum is malformed.
        """
        curves, sums = {}, {}
        for family, shapes in table.items():
            if family not in (*CURVES, *SUMS):
                raise UnknownNameError("measured family", family, (*CURVES, *SUMS))
            for shape, values in shapes.items():
                where = f"{device.name}: measured.{family}.{shape!r}"
                if family in CURVES:
                    curves[family, shape] = _curve(values, where)
                else:
                    sums[family, shape] = _sum(family, values, where)
        return cls(device, curves, sums, fallback)

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``.

        Raises:
            UnsupportedError: the fallback cannot run such work.
        """
        shape = work.family, shape_of(work)
        if (terms := self.sums.get(shape)) is not None:
            return self._bounded(work, summed(terms, terms_of(work)), Source.MEASURED)
        curve = self.curves.get(shape)
        if curve is None:
            return self.fallback.cost(work)
        count = count_of(work)
        if not count:
            return Cost(0.0, Source.MEASURED)
        source = Source.MEASURED if count <= curve.xs[-1] else Source.EXTRAPOLATED
        return self._bounded(work, curve.at(count), source)

    def _bounded(self, work: Work, seconds: float, source: Source) -> Cost:
        if work.flops and work.family != "memory":
            seconds = max(seconds, work.flops / self.device.flops_for(work.dtype))
        cached = self.device.cache.capacity_bytes if self.device.cache else 0.0
        far = work.bytes_read + work.bytes_written - cached
        return Cost(max(seconds, far / self.device.memory.bandwidth), source)


def shape_of(work: Work) -> str:
    """What must be equal for two kernels to lie on one curve or in one sum, to read and write."""
    if isinstance(work, GemmWork):
        batch = f" x{work.batch}" if work.batch > 1 else ""
        scales = f" scales {work.scale_bytes:g}" if work.scale_bytes else ""
        return f"{_formats(work.dtype, work.weight)} {work.n}x{work.k}{batch}{scales}"
    if isinstance(work, MoeWork):
        sizes = f"{work.experts}/{work.top_k} {work.hidden}x{work.intermediate}"
        share = work.pairs / (work.tokens * work.top_k) if work.tokens else 1.0
        notes = "" if work.gated else " ungated"
        notes += f" share {share:.4g}" if abs(share - 1.0) > 1e-6 else ""
        notes += f" {work.distribution}" if work.distribution != "uniform" else ""
        return f"{_formats(work.dtype, work.weight)} {sizes}{notes}"
    if isinstance(work, MemoryWork):
        rows = max(1, work.rows)
        one = f"{work.bytes_written / rows:.5g} B {work.flops / rows:.5g} FLOP"
        return f"{work.kernel} {work.per_token} x {one}"
    if isinstance(work, AttentionWork):
        heads = f"{work.heads}/{work.kv_heads} {work.head_dim}/{work.value_dim}"
        notes = f" window {work.window}" if work.window is not None else ""
        notes += " latent" if work.latent else ""
        notes += "" if work.causal else " bidirectional"
        return f"{_formats(work.dtype, work.kv_dtype)} {heads}{notes}"
    if isinstance(work, RecurrentWork):
        return f"{work.dtype} {work.recurrence} {work.heads} {work.key_dim}x{work.value_dim}"
    return ""


def count_of(work: Work) -> float:
    """Where ``work`` lies on the curve of its shape: rows, tokens or sequences."""
    if isinstance(work, GemmWork):
        return work.m
    if isinstance(work, MoeWork):
        return work.tokens
    if isinstance(work, MemoryWork):
        return work.rows / work.per_token
    return 0.0


def terms_of(work: Work) -> Terms:
    """The quantities that the time of ``work`` is a sum of, by name."""
    for cls, terms in _TERMS.values():
        if isinstance(work, cls):
            return terms(work)
    return {}


def summed(coefficients: Terms, terms: Terms) -> float:
    """Seconds: each term times its coefficient; terms without one take no time."""
    return sum(coefficients.get(name, 0.0) * value for name, value in terms.items())


def _attention_terms(work: AttentionWork) -> Terms:
    """Calls, sequences, their tokens, the keys they read and the pairs prefills attend to."""
    new = sum(tokens for tokens, _ in work.prefills)
    clip = work.window or 0
    keys = sum(t + (min(c, clip) if clip else c) for t, c in work.prefills)
    return {
        "call": 1.0,
        "prefills": float(len(work.prefills)),
        "prefill_tokens": float(new),
        "prefill_keys": float(keys),
        "prefill_pairs": float(work.prefill_pairs),
        "decodes": float(work.decodes),
        "decode_keys": float(work.decode_keys),
    }


def _recurrent_terms(work: RecurrentWork) -> Terms:
    """Scans and updates: one call each, then their sequences and tokens."""
    return {
        "scan": float(work.prefills > 0),
        "prefills": float(work.prefills),
        "prefill_tokens": float(work.prefill_tokens),
        "update": float(work.decodes > 0),
        "decodes": float(work.decodes),
    }


_TERMS: dict[str, tuple[type, Callable[[Any], Terms]]] = {
    "attention": (AttentionWork, _attention_terms),
    "recurrent": (RecurrentWork, _recurrent_terms),
}
#: Names of the terms by family.
TERM_NAMES = {
    "attention": tuple(_attention_terms(AttentionWork((), 0, 0, 0, 1, 1, 1, 1))),
    "recurrent": tuple(_recurrent_terms(RecurrentWork("", 0, 0, 0, 1, 1, 1, 0, 0, 0))),
}


def _formats(arithmetic: str, stored: str) -> str:
    return arithmetic if arithmetic == stored else f"{arithmetic}/{stored}"


def _curve(values: Any, where: str) -> Curve:
    try:
        points = [(float(count), float(seconds)) for count, seconds in values]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a curve is a list of [count, seconds], not {values!r}") from error
    if not points or any(count <= 0 or seconds <= 0 for count, seconds in points):
        raise InputError(f"{where}: a curve needs points, all of them positive")
    return Curve.of(points)


def _sum(family: str, values: Any, where: str) -> Terms:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: a sum is a table of terms, not {values!r}")
    for name in values:
        if name not in TERM_NAMES[family]:
            raise UnknownNameError(f"term of {where}:", name, TERM_NAMES[family])
    return {name: float(value) for name, value in values.items()}
