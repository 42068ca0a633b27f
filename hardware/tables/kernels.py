"""Tables of kernel latencies by size (AIConfigurator's layout), as a cost model.

Where a kernel of the same shape was measured, the table answers; elsewhere the fallback does.
Beyond the measured sizes of a shape the fallback is scaled to meet the table at its edge. Nothing
takes less than the device's peak arithmetic, nor than reading its weights or keys from memory:
benchmarks may find small ones in a cache, models do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from servesim.graph.work import AttentionWork, GemmWork, MoeWork, Work
from servesim.hardware.bounds import least_seconds
from servesim.hardware.calibrate.kernel_tables import kernel_rows, kernel_table_files
from servesim.hardware.calibrate.row import Row
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.device import Device
from servesim.hardware.tables.grid import Curve
from servesim.hardware.tables.kernel_attention import KernelAttention
from servesim.hardware.tables.plane import Plane, around

#: What must be equal for two kernels to lie on one curve or grid.
Shape = tuple[object, ...]


@dataclass(frozen=True)
class KernelTable:
    """Costs of products, routed experts and attention by shape.

    Attributes:
        curves: seconds over rows (products) or tokens (experts).
        attention: by heads, widths and formats.
        fallback: answers for other shapes and families, and tells how times go on beyond the
            measured sizes.
        device: whose peaks no kernel beats; None for any.
    """

    curves: Mapping[Shape, Curve]
    attention: Mapping[Shape, KernelAttention]
    fallback: CostModel
    device: Device | None = None

    def cost(self, work: Work) -> Cost:
        """The cost of ``work``.

        Raises:
            UnsupportedError: the fallback cannot run such work.
        """
        found = self._found(work)
        if found is None:
            return self.fallback.cost(work)
        least = self._least_seconds(work)
        return found if found.seconds >= least else Cost(least, Source.ANALYTICAL)

    def _least_seconds(self, work: Work) -> float:
        """What peak arithmetic needs, and reading weights or keys from memory."""
        if self.device is None:
            return 0.0
        streamed = _streamed_bytes(work) / self.device.memory.bandwidth
        return max(streamed, least_seconds(work, self.device))

    def _found(self, work: Work) -> Cost | None:
        """What the tables tell; None without a kernel of the same shape."""
        if isinstance(work, AttentionWork):
            table = self.attention.get(_shape(work))
            return table.cost(work, self.fallback) if table and work.query_tokens else None
        if not isinstance(work, GemmWork | MoeWork):
            return None
        curve, size = self.curves.get(_shape(work)), _size(work)
        if curve is None or not size:
            return None
        if curve.inside(size):
            return Cost(curve.at(size), Source.MEASURED)
        return self._beyond(work, curve, size)

    def _beyond(self, work: GemmWork | MoeWork, curve: Curve, size: int) -> Cost:
        """The fallback's cost, scaled to meet the nearest measured size.

        Above the last one it is taken at doublings of it and linear between, as it is between
        measured sizes: rounds of tiles and odd sizes, that the table does not show, make no seam.
        """
        edge = int(curve.xs[0] if size < curve.xs[0] else curve.xs[-1])
        scale = curve.at(edge) / self.fallback.cost(_sized(work, edge)).seconds
        costs = [
            (weight, self.fallback.cost(_sized(work, at))) for at, weight in around([edge], size)
        ]
        seconds = sum(weight * cost.seconds for weight, cost in costs)
        return Cost(scale * seconds, costs[-1][1].source)


def _streamed_bytes(work: Work) -> float:
    """Weights or keys that a kernel reads from memory, whatever a cache holds of the rest."""
    if isinstance(work, GemmWork):
        return work.weight_bytes
    if isinstance(work, MoeWork):
        return work.touched * work.expert_bytes
    assert isinstance(work, AttentionWork)
    keys = work.decode_keys - work.repeated_keys + sum(context for _, context in work.prefills)
    return keys * work.kv_bytes_per_token


def load_kernel_tables(
    folder: str | Path, fallback: CostModel, device: Device | None = None
) -> KernelTable:
    """All kernel tables at or below ``folder`` (ten seconds for 200,000 kernels).

    Args:
        fallback: cost model of what was not measured.
        device: whose peaks no kernel beats; None for any.

    Raises:
        InputError: there are none, or one is malformed.
    """
    files = kernel_table_files(Path(folder))
    curves, attention = _tables(Path(folder), tuple(file.stat().st_mtime_ns for file in files))
    return KernelTable(curves, attention, fallback, device)


@lru_cache(maxsize=2)
def _tables(
    folder: Path, _modified: tuple[int, ...]
) -> tuple[Mapping[Shape, Curve], Mapping[Shape, KernelAttention]]:
    """Curves and attention of the tables, which several instances may share."""
    rows = kernel_rows(folder, 0.0)
    points: dict[Shape, list[tuple[float, float]]] = {}
    for row in rows:
        if isinstance(row.work, GemmWork | MoeWork):
            shape = _shape(row.work, row.ranks)
            points.setdefault(shape, []).append((_size(row.work), row.seconds))
    curves = {shape: Curve.of(found) for shape, found in points.items()}
    return curves, _attention_tables(rows)


def _attention_tables(rows: Iterable[Row]) -> dict[Shape, KernelAttention]:
    """Of equal decodes, and of equal fresh prompts, without a window."""
    decode: dict[Shape, dict[tuple[int, int], float]] = {}
    prefill: dict[Shape, dict[tuple[int, int], float]] = {}
    for row in rows:
        work = row.work
        if not isinstance(work, AttentionWork) or work.window is not None:
            continue
        if work.decodes:
            at = (work.decodes, work.decode_keys_max - 1)
            decode.setdefault(_shape(work), {})[at] = row.seconds
        elif work.prefills[0][1] == 0:
            at = (len(work.prefills), work.prefills[0][0])
            prefill.setdefault(_shape(work), {})[at] = row.seconds
    return {
        shape: KernelAttention(
            Plane(decode[shape]) if shape in decode else None,
            Plane(prefill[shape]) if shape in prefill else None,
        )
        for shape in (decode | prefill)
    }


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
