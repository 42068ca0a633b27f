"""What was measured of a device's kernels, in whichever layout it is, as a cost model."""

from __future__ import annotations

import math
from pathlib import Path

from servesim.errors import InputError, UnsupportedError
from servesim.hardware.calibrate.kernel_tables import kernel_table_files
from servesim.hardware.cost import CostModel
from servesim.hardware.tables.kernels import load_kernel_tables
from servesim.hardware.tables.layer_profile import has_layer_profile, load_layer_profile

NEEDS_PYARROW = "reading parquet needs pyarrow: pip install 'servesim[calibrate]'"


def load_profile(
    folder: Path,
    tensor_parallel_size: int,
    fallback: CostModel,
    *,
    model: str | None = None,
    bandwidth: float = math.inf,
) -> CostModel:
    """Layer latencies of a model (LLMServingSim, Vidur), or kernel tables by size (AIConfigurator).

    Args:
        folder: holds either, itself or below.
        tensor_parallel_size: degree that layer latencies are taken for.
        fallback: answers for what was not measured.
        model: whose layer latencies to take, of several.
        bandwidth: of the device's memory, in bytes per second.

    Raises:
        InputError: neither is there, or both are, or a file is malformed.
        UnsupportedError: the library that reads parquet is missing.
    """
    layers, kernels = has_layer_profile(folder), bool(kernel_table_files(folder))
    if layers and kernels:
        raise InputError(
            f"{folder}: layer latencies and kernel tables below; name the folder of one of them"
        )
    if kernels:
        try:
            return load_kernel_tables(folder, fallback)
        except ImportError as error:
            raise UnsupportedError(f"{folder}: {NEEDS_PYARROW}") from error
    if not layers and folder.is_dir():
        raise InputError(
            f"{folder}: no layer profile (tp<N>/dense.csv, tp<N>/layers.csv or mlp.csv) and no "
            "kernel tables (gemm_perf.parquet, ...) in it"
        )
    return load_layer_profile(
        folder, tensor_parallel_size, fallback, model=model, bandwidth=bandwidth
    )
