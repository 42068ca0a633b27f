"""What was measured of a device's kernels, in whichever layout it is, as a cost model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.calibrate.kernel_tables import kernel_table_files
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.tables.bundle import (
    find_bundle,
    has_layer_profile,
    said_by,
    said_sizes,
)
from servesim.hardware.tables.kernels import load_kernel_tables
from servesim.hardware.tables.layer_profile import load_layer_profile
from servesim.hardware.tables.origin import device_names, require_device
from servesim.hardware.tables.plausible import require_plausible
from servesim.hardware.tables.sizes import (
    SizesOf,
    differing,
    graph_sizes,
    nothing_known,
    same_format,
    same_sizes,
    weight_format,
)

NEEDS_PYARROW = "reading parquet needs pyarrow: pip install 'servesim[calibrate]'"


def load_profile(
    folder: Path,
    graph: OpGraph,
    device: Device,
    model: str | None = None,
    sizes_of: SizesOf = nothing_known,
) -> CostModel:
    """Layer latencies of a model (LLMServingSim, Vidur), or kernel tables by size (AIConfigurator).

    What was not measured costs what it does on ``device``.

    Args:
        folder: holds either, itself or below.
        graph: what is served; layer latencies are taken for its tensor-parallel degree.
        device: what it is served on.
        model: whose layer latencies to take, when not those of the model served.
        sizes_of: the sizes of a model that is known by its id.

    Raises:
        InputError: neither is there, or both are, or a file is malformed; or what is there was
            measured on another device or of another model, or faster than the device can be.
        UnsupportedError: the library that reads parquet is missing.
    """
    layers, kernels = has_layer_profile(folder), kernel_table_files(folder)
    if layers and kernels:
        raise InputError(
            f"{folder}: layer latencies and kernel tables below; name the folder of one of them"
        )
    if kernels:
        return _kernel_tables(folder, kernels, graph, device)
    if not layers and folder.is_dir():
        raise InputError(
            f"{folder}: no layer profile (tp<N>/dense.csv, tp<N>/layers.csv or mlp.csv) and no "
            "kernel tables (gemm_perf.parquet, ...) in it"
        )
    bundle = _bundle(folder, graph, model, sizes_of)
    said = said_by(bundle)
    if said.certain or said.format or sizes_of(said.model):  # else folders called anything
        require_device([said.device], device.name, bundle)
    profile = load_layer_profile(
        bundle,
        graph.tensor_parallel_size,
        device.cost_model,
        bandwidth=device.memory.bandwidth,
        layers={op.label or op.name for op, _ in graph.weighted_ops()},
    )
    require_plausible(replace(profile, bandwidth=math.inf), graph, device, bundle)
    return profile


def _kernel_tables(
    folder: Path, files: Sequence[Path], graph: OpGraph, device: Device
) -> CostModel:
    try:
        require_device(device_names(files), device.name, folder)
        table = load_kernel_tables(folder, device.cost_model, device)
    except ImportError as error:
        raise UnsupportedError(f"{folder}: {NEEDS_PYARROW}") from error
    require_plausible(replace(table, device=None), graph, device, folder)
    return table


def _bundle(folder: Path, graph: OpGraph, model: str | None, sizes_of: SizesOf) -> Path:
    """The layers measured of ``model``, or else of what is served, in its sizes and format.

    Raises:
        InputError: there are none, or more than one.
    """
    if model is not None:
        return find_bundle(folder, model)

    def alike(other: str) -> bool | None:
        sizes = sizes_of(other)
        return None if sizes is None else same_sizes(sizes, graph)

    bundle = find_bundle(folder, graph.model, weight_format(graph) or None, alike)
    sizes, said = said_sizes(bundle), said_by(bundle)
    if name := differing(sizes, graph):
        raise InputError(
            f"{bundle}: layers of a model with {name} = {sizes[name]}, but {graph.model} has "
            f"{graph_sizes(graph)[name]} {said.all_the_same}"
        )
    if not same_format(said.format, weight_format(graph)):
        raise InputError(
            f"{bundle}: layers with weights in {said.format}, but {graph.model} has them in "
            f"{weight_format(graph)} {said.all_the_same}"
        )
    return bundle
