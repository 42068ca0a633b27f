"""Finding the tables below a folder: kernel tables, and layer tables of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from servesim.errors import InputError
from servesim.hardware.calibrate.collectives import COLLECTIVE_TABLES
from servesim.hardware.calibrate.geometry import Geometry
from servesim.hardware.calibrate.kernel_tables import kernel_rows, kernel_table_files
from servesim.hardware.calibrate.latent_tables import latent_rows
from servesim.hardware.calibrate.layer_tables import layer_rows
from servesim.hardware.calibrate.row import Row
from servesim.hardware.cost import CostModel
from servesim.hardware.tables.origin import device_names, require_device
from servesim.hardware.tables.sizes import format_of


def has_tables(folder: Path) -> bool:
    """Whether there are tables of kernels or layers below ``folder``."""
    if any(any(folder.rglob(f"{name}.csv*")) for name in ("attention", "mlp")):
        return True
    return any(path.name not in COLLECTIVE_TABLES for path in folder.rglob("*_perf.*"))


def measured_rows(
    folder: Path,
    cache_bytes: float,
    geometry: Callable[[str], Geometry],
    costs: CostModel,
    device: str | None = None,
) -> list[Row]:
    """All rows of the tables below ``folder``.

    Layer tables lie in ``<organisation>/<model>/[<variant>/]tp<N>/``; ``geometry`` gives a
    model's sizes by id. ``costs`` of what tables of whole modules time beside attention.

    Raises:
        InputError: there are no tables, some that no fit reads, or some of several devices or of
            another than ``device``.
    """
    if profiles := sorted(folder.rglob("mlp.csv*")):
        place = profiles[0].parent
        raise InputError(
            f"{place}: a profile of Vidur is not fitted, but used as measured: simulate with "
            f"--profile {place}"
        )
    rows: list[Row] = []
    for attention in sorted([*folder.rglob("attention.csv"), *folder.rglob("attention.csv.gz")]):
        place = attention.parent
        if not place.name.removeprefix("tp").isdigit():
            raise InputError(f"{place}: layer tables lie in a folder tp<N>")
        model = _model_id(place)
        ranks = int(place.name.removeprefix("tp"))
        rows += layer_rows(place, model, geometry(model), ranks)
    if any(folder.rglob("*_perf.*")):
        require_device(device_names(kernel_table_files(folder)), device, folder)
        rows += kernel_rows(folder, cache_bytes)
        rows += latent_rows(folder, cache_bytes, costs)
    if not rows:
        raise InputError(f"{folder}: no kernel tables (*_perf) and no layer tables (attention.csv)")
    return rows


def _model_id(place: Path) -> str:
    """``organisation/model`` of a ``tp<N>`` folder, with or without a variant's folder between."""
    above = place.parent
    if format_of(above.name):
        above = above.parent
    return f"{above.parent.name}/{above.name}"
