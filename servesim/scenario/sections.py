"""The sections of a scenario: each a frozen dataclass whose fields are the keys of its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servesim.errors import InputError
from servesim.runtime.config import EngineConfig
from servesim.scenario.fields import NameOrPath


@dataclass(frozen=True, slots=True)
class ModelSection:
    """``[model]``: which model is served.

    Attributes:
        id: a Hugging Face id with a built-in config, a model folder, or a config.json.
        dtype: number format of weights and activations; the config's own when absent.
        quantization: scheme of the weights; from the config's ``quantization_config`` when absent.
    """

    id: NameOrPath = ""
    dtype: str | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class HardwareSection:
    """``[hardware]``: what an instance runs on.

    Attributes:
        device: a known device's name or a device file (TOML).
        profile: a folder of measured layer latencies, used where it has a measurement.
        link: between the devices of an instance, in place of the device's own: a table with
            ``bandwidth`` (B/s) and ``latency`` (s).
    """

    device: NameOrPath = ""
    profile: Path | None = None
    link: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Plugin:
    """``[workload]`` or ``[router]``: a plugin's name and its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputSection:
    """``[output]``: where results go.

    Attributes:
        folder: of ``requests.csv``, ``steps.csv`` and ``summary.json``.
        report: an HTML report.
        trace: a Perfetto (Chrome) trace.
    """

    folder: Path | None = None
    report: Path | None = None
    trace: Path | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One engine, or ``count`` equal ones: ``[[instance]]``.

    Attributes:
        name: how results call it; copies are numbered.
    """

    name: str = "engine"
    count: int = 1
    model: ModelSection = field(default_factory=ModelSection)
    hardware: HardwareSection = field(default_factory=HardwareSection)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"[[instance]] count must be at least 1, not {self.count}")

    def require_complete(self) -> None:
        """Raise unless model and device are named.

        Raises:
            InputError: one of them is not.
        """
        if not self.model.id:
            raise InputError("no model is named: give --model or [model] id")
        if not self.hardware.device:
            raise InputError("no device is named: give --hardware or [hardware] device")
