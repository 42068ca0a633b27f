"""What was measured of a device's kernels, in whichever layout it is, as a cost model."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from servesim.errors import InputError, UnsupportedError
from servesim.graph.opgraph import OpGraph
from servesim.hardware.calibrate.kernel_tables import kernel_table_files
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.tables.bundle import find_bundle, has_layer_profile, said_by, said_sizes
from servesim.hardware.tables.kernels import load_kernel_tables
from servesim.hardware.tables.layer_profile import load_layer_profile
from servesim.hardware.tables.origin import device_names, require_device
from servesim.hardware.tables.plausible import require_plausible

NEEDS_PYARROW = "reading parquet needs pyarrow: pip install 'servesim[calibrate]'"


def load_profile(
    folder: Path,
    graph: OpGraph,
    device: Device,
    model: str | None = None,
    known_models: Collection[str] = (),
) -> CostModel:
    """Layer latencies of a model (LLMServingSim, Vidur), or kernel tables by size (AIConfigurator).

    What was not measured costs what it does on ``device``.

    Args:
        folder: holds either, itself or below.
        graph: what is served; layer latencies are taken for its tensor-parallel degree.
        device: what it is served on.
        model: whose layer latencies to take, when not those of the model served.
        known_models: ids that are a model's wherever in a path they stand.

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
    bundle = find_bundle(folder, model or graph.model, known_models=known_models)
    require_device([said_by(bundle, folder).device], device.name, bundle)
    if model is None:
        _require_sizes(bundle, graph)
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


def _require_sizes(bundle: Path, graph: OpGraph) -> None:
    """Refuse layers of other widths than the model's, as far as the bundle says.

    Raises:
        InputError: they have.
    """
    heads = {op.spec.shape[0] for op, _ in graph.weighted_ops() if op.kind == "attention"}
    sizes = {"hidden": graph.hidden_size}
    if len(heads) == 1:
        sizes["heads"] = heads.pop() * graph.tensor_parallel_size
    for name, measured in said_sizes(bundle).items():
        if measured != sizes.get(name, measured):
            raise InputError(
                f"{bundle}: layers of a model with {name} = {measured}, but {graph.model} has "
                f"{sizes[name]} (to take them all the same: profile_model)"
            )
