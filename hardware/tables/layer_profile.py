"""A bundle of layer latencies measured for one model on one device, as a cost model.

The layout of a bundle is ``<hardware>/<organisation>/<model>/<dtype>/tp<N>/`` with, in
microseconds of kernel time: ``dense.csv`` (layer, tokens, time_us), ``per_sequence.csv`` (layer,
sequences, time_us), ``attention.csv`` (prefill_chunk, kv_prefill, n_decode, kv_decode, time_us)
and optionally ``skew.csv`` (see ``Skew``). The layouts of ``older_layers`` are read as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError, UnknownNameError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, Work
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.tables.attention import AttentionGrid, Point
from servesim.hardware.tables.bundle import find_bundle
from servesim.hardware.tables.csvfile import Row, count, read_csv, seconds
from servesim.hardware.tables.grid import Curve
from servesim.hardware.tables.mixed import AttentionTable
from servesim.hardware.tables.older_layers import existing, phase_grid, v0_curves, vidur_curves
from servesim.hardware.tables.skew import Skew, SkewSample

#: Layers by the serving names of their operators (``graph/passes/naming.py``).
LAYERS = (
    *("embedding", "position_embedding", "layernorm", "qkv_proj", "qk_norm", "rotary_emb"),
    *("attention", "o_proj", "gate_up_proj", "up_proj", "act_fn", "down_proj", "residual_add"),
    *("gate", "router", "experts", "in_proj", "out_proj", "fused_qkv_a_proj", "q_a_layernorm"),
    *("q_b_proj", "kv_a_layernorm", "kv_b_proj", "final_layernorm", "lm_head", "sampler"),
)


@dataclass(frozen=True)
class LayerProfile:
    """Costs by serving name: measured where the bundle reaches, ``fallback`` for other work.

    Attributes:
        curves: seconds by layer name over tokens (LM head and sampler: over sequences).
        attention: seconds of attention by batch.
        fallback: answers for work the bundle has no layer for.
        kernels_alone: whether the times leave out the gaps between kernels.
        bandwidth: bytes per second of the device's memory, which no decode reads faster. Tables of
            LLMServingSim v0 have batched decodes that read one short context, whatever they are
            labelled with: 128 times 2048 tokens would have come at 10 TB/s on an A6000.
    """

    curves: Mapping[str, Curve]
    attention: AttentionTable
    fallback: CostModel
    kernels_alone: bool = False
    bandwidth: float = math.inf

    def cost(self, work: Work) -> Cost:
        """Measured within the bundle's range, continued and marked extrapolated beyond it.

        Raises:
            UnsupportedError: neither the bundle nor the fallback knows such work.
        """
        if isinstance(work, AttentionWork) and not work.latent:
            found = self.attention.cost(work)
            least = work.decode_keys * work.kv_bytes_per_token / self.bandwidth
            return found if found.seconds >= least else Cost(least, Source.ANALYTICAL)
        curve = self.curves.get(work.label)
        if curve is None or not isinstance(work, GemmWork | MemoryWork):
            return self.fallback.cost(work)
        count = work.m if isinstance(work, GemmWork) else work.rows // work.per_token
        if count <= 0:
            return Cost(0.0, Source.MEASURED)
        source = Source.MEASURED if curve.inside(count) else Source.EXTRAPOLATED
        tiled = isinstance(work, GemmWork)
        return Cost(curve.stair(count) if tiled else curve.at(count), source)


def load_layer_profile(
    folder: str | Path,
    tensor_parallel_size: int,
    fallback: CostModel,
    *,
    model: str | None = None,
    dtype: str | None = None,
    bandwidth: float = math.inf,
    layers: Collection[str] = (),
) -> LayerProfile:
    """The bundle at ``folder`` for one tensor-parallel degree.

    Args:
        folder: the hardware, model or dtype folder of a bundle.
        tensor_parallel_size: which ``tp<N>`` to take.
        fallback: cost model for work the bundle does not name.
        model, dtype: which of several profiles in ``folder``; one of another model is refused.
        bandwidth: of the device's memory, in bytes per second.
        layers: operators of the model that have no name of ``LAYERS``.

    Raises:
        InputError: no bundle there, several to choose from, no such degree, or a malformed file.
        UnknownNameError: no model has such a layer.
    """
    found = find_bundle(Path(folder), model, dtype)
    if existing(found, "mlp.csv").is_file():
        curves = vidur_curves(found, tensor_parallel_size)
        grid = phase_grid(found, tensor_parallel_size)
        return LayerProfile(curves, AttentionTable(grid), fallback, bandwidth=bandwidth)
    place = found / f"tp{tensor_parallel_size}"
    if not place.is_dir():
        known = ", ".join(sorted(p.name for p in found.glob("tp*"))) or "none"
        raise InputError(f"{found}: no profile for {place.name} (there: {known})")
    if not (place / "dense.csv").is_file():
        grid = phase_grid(place, tensor_parallel_size)
        attention = AttentionTable(grid)
        return LayerProfile(v0_curves(place), attention, fallback, bandwidth=bandwidth)
    curves = _curves(place / "dense.csv", "tokens", layers)
    curves |= _curves(place / "per_sequence.csv", "sequences", layers)
    # Measured on one layer, ``layernorm`` averages a plain norm and one that adds the residual.
    # In a whole model all but the first add it, as the final one does.
    if "layernorm" in curves:
        curves["layernorm"] = curves.get("final_layernorm", curves["layernorm"])
    return LayerProfile(curves, _attention(place), fallback, True, bandwidth)


def _curves(path: Path, counted: str, layers: Collection[str]) -> dict[str, Curve]:
    """Seconds by layer over tokens or sequences, as the column ``counted`` is called."""
    points: dict[str, list[tuple[float, float]]] = {}
    for layer, x, t in read_csv(
        path, lambda row: (row["layer"], count(row[counted], 1), seconds(row["time_us"], 1e-6))
    ):
        points.setdefault(layer, []).append((x, t))
    known = {*LAYERS, *layers}
    for layer in points:
        if layer.removeprefix("shared_experts.") not in known and layer not in known:
            raise UnknownNameError(f"layer in {path}:", layer, known)
    return {layer: Curve.of(found) for layer, found in points.items()}


def _attention(place: Path) -> AttentionTable:
    keys = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")

    def point(row: Row) -> tuple[Point, float]:
        chunk, before, decodes, context = (count(row[key]) for key in keys)
        return (chunk, before, decodes, context), seconds(row["time_us"], 1e-6)

    def sample(row: Row) -> SkewSample:
        times = (seconds(row[key], 1e-6) for key in ("t_mean_us", "t_max_us", "t_skew_us"))
        return SkewSample(count(row["pc"]), count(row["n"], 1), count(row["kv_big"], 1), *times)

    measured = dict(read_csv(place / "attention.csv", point))
    uneven = place / "skew.csv"
    skew = Skew.of(read_csv(uneven, sample)) if uneven.is_file() else None
    return AttentionTable(AttentionGrid.of(measured), skew)
