"""Tables of kernel latencies by size (AIConfigurator's layout), as a cost model.

Where a kernel of the same shape was measured, the table answers; elsewhere the fallback does.
Beyond the measured sizes of a shape the fallback is scaled to meet the table at its edge;
attention goes on with its own slope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from servesim.graph.work import AttentionWork, GemmWork, MoeWork, Work
from servesim.hardware.calibrate.kernel_tables import kernel_rows, kernel_table_files
from servesim.hardware.calibrate.row import Row
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.tables.attention import PhaseGrid
from servesim.hardware.tables.grid import Curve
from servesim.hardware.tables.mixed import AttentionTable

#: What must be equal for two kernels to lie on one curve or grid.
Shape = tuple[object, ...]


@dataclass(frozen=True)
class KernelTable:
    """Costs of products, routed experts and attention by shape.

    Attributes:
        curves: seconds over rows (products) or tokens (experts).
        attention: by heads, widths and formats.
        fallback: answers for other shapes and families, and for products and experts beyond the
            measured sizes.
    """

    curves: Mapping[Shape, Curve]
    attention: Mapping[Shape, AttentionTable]
    fallback: CostModel

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``.

        Raises:
            UnsupportedError: the fallback cannot run such work.
        """
        if isinstance(work, AttentionWork):
            return self._attention_cost(work)
        if not isinstance(work, GemmWork | MoeWork):
            return self.fallback.cost(work)
        curve, size = self.curves.get(_shape(work)), _size(work)
        if curve is None or not size:
            return self.fallback.cost(work)
        if curve.inside(size):
            return Cost(curve.at(size), Source.MEASURED)
        edge = curve.xs[0] if size < curve.xs[0] else curve.xs[-1]
        beyond, at_edge = self.fallback.cost(work), self.fallback.cost(_sized(work, int(edge)))
        return Cost(beyond.seconds * curve.at(edge) / at_edge.seconds, beyond.source)

    def _attention_cost(self, work: AttentionWork) -> Cost:
        table = self.attention.get(_shape(work))
        return self.fallback.cost(work) if table is None else table.cost(work)


def load_kernel_tables(folder: str | Path, fallback: CostModel) -> KernelTable:
    """All kernel tables at or below ``folder`` (ten seconds for 200,000 kernels).

    Raises:
        InputError: there are none, or one is malformed.
    """
    files = kernel_table_files(Path(folder))
    curves, attention = _tables(Path(folder), tuple(file.stat().st_mtime_ns for file in files))
    return KernelTable(curves, attention, fallback)


@lru_cache(maxsize=2)
def _tables(
    folder: Path, _modified: tuple[int, ...]
) -> tuple[Mapping[Shape, Curve], Mapping[Shape, AttentionTable]]:
    """Curves and attention of the tables, which several instances may share."""
    rows = kernel_rows(folder, 0.0)
    points: dict[Shape, list[tuple[float, float]]] = {}
    for row in rows:
        if isinstance(row.work, GemmWork | MoeWork):
            shape = _shape(row.work, row.ranks)
            points.setdefault(shape, []).append((_size(row.work), row.seconds))
    curves = {shape: Curve.of(found) for shape, found in points.items()}
    return curves, _attention_tables(rows)


def _attention_tables(rows: Iterable[Row]) -> dict[Shape, AttentionTable]:
    """Of shapes with prefills (one in a batch) and decodes measured."""
    decode: dict[Shape, dict[tuple[int, int], float]] = {}
    prefill: dict[Shape, dict[tuple[int, int], float]] = {}
    for row in rows:
        work = row.work
        if not isinstance(work, AttentionWork) or work.window is not None:
            continue
        if work.decodes:
            at = (work.decodes, work.decode_keys_max - 1)
            decode.setdefault(_shape(work), {})[at] = row.seconds
        elif len(work.prefills) == 1:
            prefill.setdefault(_shape(work), {})[work.prefills[0]] = row.seconds
    both = [shape for shape in decode if shape in prefill]
    return {s: AttentionTable(PhaseGrid.of(decode[s], prefill[s])) for s in both}


def _shape(work: GemmWork | MoeWork | AttentionWork, ranks: int = 0) -> Shape:
    """What curves and grids are kept under; ``ranks`` that share experts follow from the pairs."""
    if isinstance(work, GemmWork):
        return "gemm", work.batch, work.n, work.k, work.dtype, work.weight
    if isinstance(work, MoeWork):
        sizes = work.experts, work.top_k, work.hidden, work.intermediate, work.gated
        sharing = ranks or max(1, round(work.tokens * work.top_k / max(work.pairs, 1e-9)))
        return "moe", *sizes, sharing, work.dtype, work.weight, work.distribution
    widths = work.heads, work.kv_heads, work.head_dim, work.value_dim
    return "attention", *widths, work.dtype, work.kv_dtype, work.window, work.latent


def _size(work: GemmWork | MoeWork) -> int:
    return work.m if isinstance(work, GemmWork) else work.tokens


def _sized(work: GemmWork | MoeWork, size: int) -> GemmWork | MoeWork:
    """The same kernel for other rows or tokens; touched experts grow at most with the tokens."""
    if isinstance(work, GemmWork):
        return replace(work, m=size)
    scale = size / work.tokens
    touched = min(work.experts, work.pairs * scale, work.touched * max(1.0, scale))
    return replace(work, tokens=size, pairs=work.pairs * scale, touched=touched)
