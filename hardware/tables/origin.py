"""On which device tables were measured: never two, and never another than is simulated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from servesim.errors import InputError
from servesim.hardware.calibrate.records import read_frame
from servesim.hardware.load import known_device


def require_device(names: Iterable[str], device: str | None, where: Path) -> None:
    """Refuse tables measured on several devices, or on another than ``device``.

    Args:
        names: of the devices the tables were measured on, as drivers or folders call them.
        device: the device simulated; any will do when it is not one that servesim knows.

    Raises:
        InputError: they were.
    """
    found = sorted({name for name in names if name})
    known = {name: known_device(name) for name in found}
    if len({known[name] or name for name in found}) > 1:
        raise InputError(f"{where}: measured on several devices ({', '.join(found)}); name one's")
    wanted = known_device(device) if device else None
    for name, stem in known.items():
        if wanted and stem and stem != wanted:
            raise InputError(
                f"{where}: measured on {name} ({stem}), not on {wanted}; a device file of your own "
                "takes tables of any device"
            )


def device_names(files: Iterable[Path]) -> set[str]:
    """What the column ``device`` of AIConfigurator's tables says, where there is one.

    Raises:
        InputError: a file cannot be read.
        ImportError: the library that reads parquet is missing.
    """
    names: set[str] = set()
    for path in files:
        table = read_frame(path)
        if "device" in table.columns:
            columns = [name for name in ("device", "latency") if name in table.columns]
            whole = table.dropna(subset=columns)  # a row cut off may be so in the device's name
            names |= {str(name) for name in whole["device"].unique()}
    return names
