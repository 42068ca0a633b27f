"""Figures by number: each module ``figure_<N>`` compares its cases, measured and simulated."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.errors import InputError, UnknownNameError
from servesim.validation import paper
from servesim.validation.compare import Compared
from servesim.validation.json_files import read_object


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a case in SI units, and how far apart measured and simulated are."""

    measured: float
    simulated: float
    error: float

    @classmethod
    def of(cls, measured: float, simulated: float) -> Metric:
        """With the relative error, simulated over measured less one."""
        return cls(measured, simulated, Compared(measured, simulated).error)


#: Case -> metric -> numbers.
Cases = Mapping[str, Mapping[str, Metric]]


@dataclass(frozen=True, slots=True)
class PaperData:
    """Where the paper's measurements lie.

    Attributes:
        root: holds ``figure_*`` folders and ``workloads``.
        profile: layer latencies to simulate with, in place of those beside ``root``.
    """

    root: Path
    profile: Path | None = None

    @classmethod
    def at(cls, folder: Path, profile: Path | None = None) -> PaperData:
        """The data at ``folder``, in its ``paper``, or around it if it is a figure's own.

        Raises:
            InputError: there is none.
        """
        for root in (folder, folder / "paper", folder.parent):
            if (root / "workloads").is_dir():
                return cls(root, profile)
        raise InputError(f"{folder}: no measurements of the paper (a folder workloads) in it")

    def profile_for(self, hardware: str) -> Path | None:
        """Layer latencies of ``hardware``: given, or in ``profiles-v0`` beside the data; None
        leaves it to the device's own costs.
        """
        beside = self.root.parent / "profiles-v0" / hardware
        return self.profile or (beside if beside.is_dir() else None)

    def workload(self, name: str) -> Path:
        """A trace's file.

        Raises:
            InputError: it is missing.
        """
        return self._file(f"workloads/{name}.jsonl")

    def settings(self, name: str) -> dict[str, Any]:
        """The cluster settings in a JSON file of a figure.

        Raises:
            InputError: it is missing or no JSON object.
        """
        return read_object(self._file(name))

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a tab-separated file.

        Raises:
            InputError: it is missing.
        """
        head, *lines = self._file(name).read_text(encoding="utf-8").splitlines()
        names = head.split("\t")
        return [dict(zip(names, line.split("\t"), strict=True)) for line in lines if line]

    def _file(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return path


def figure_numbers() -> tuple[str, ...]:
    """The figures there are, in order."""
    found = [module.name for module in pkgutil.iter_modules(paper.__path__)]
    numbers = [name.removeprefix("figure_") for name in found if name.startswith("figure_")]
    return tuple(sorted(numbers, key=int))


def compare_figure(number: str, data: PaperData) -> Cases:
    """Simulate every case of a figure and compare.

    Raises:
        UnknownNameError: no such figure.
        ServesimError: its data cannot be read or a case not simulated.
    """
    if number not in figure_numbers():
        raise UnknownNameError("figure", number, figure_numbers())
    module = importlib.import_module(f"{paper.__name__}.figure_{number}")
    cases: Cases = module.compare(data)
    return cases


def figure_title(number: str) -> str:
    """What a figure shows."""
    title: str = importlib.import_module(f"{paper.__name__}.figure_{number}").TITLE
    return title
