"""The sections of a scenario: each a frozen dataclass whose fields are the keys of its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from servesim.errors import InputError, UnsupportedError
from servesim.fields import NameOrPath
from servesim.runtime.config import EngineConfig
from servesim.scenario.expert_section import ExpertOffloadSection


@dataclass(frozen=True, slots=True)
class ModelSection:
    """``[model]``: which model is served.

    Attributes:
        id: a Hugging Face id with a built-in config, a model folder, or a config.json.
        dtype: number format of weights and activations; the config's own when absent.
        quantization: scheme of the weights; from the config's ``quantization_config`` when absent.
        expert_routing: how a mixture's experts are chosen: a table with the ``kind`` of routing
            (``uniform`` when absent) and its options.
        fused: run by kernels fused as a serving engine's; if false, as transformers runs it in
            continuous batching: linear layers one by one, attention of all sequences at once.
    """

    id: NameOrPath = ""
    dtype: str | None = None
    quantization: str | None = None
    expert_routing: Mapping[str, Any] | None = None
    fused: bool = True


@dataclass(frozen=True, slots=True)
class HardwareSection:
    """``[hardware]``: what an instance runs on.

    Attributes:
        device: a known device's name or a device file (TOML).
        profile: a folder of measured layer latencies or kernel tables, used where it has a
            measurement.
        profile_model: the model whose layer latencies are meant, when not the one served.
        collectives: what was measured of collectives among the devices: output of ``nccl-tests``
            (a file, or a folder of several) or AIConfigurator's tables.
        link: between the devices of an instance, in place of the device's own: a table with
            ``bandwidth`` (B/s) and ``latency`` (s).
        topology: of the devices of an instance, for its collectives: a table with ``kind`` and the
            options of ``hardware/topologies.py``, and how many ``devices`` there are; each has one
            ``link``.
        clock_mhz: the clock the devices are held at; their highest when None.
        power_limit_watts: a power cap below the devices' own.
        power: what is known of the devices' power: fields of ``AcceleratorPower``.
        host_step_s: of the host a step, where ``async_scheduling`` does not hide it; when None
            as measured on the device, or 1.1 ms (``scenario/host.py``).
    """

    device: NameOrPath = ""
    profile: Path | None = None
    profile_model: str | None = None
    collectives: Path | None = None
    link: Mapping[str, Any] | None = None
    topology: Mapping[str, Any] | None = None
    clock_mhz: float | None = None
    power_limit_watts: float | None = None
    power: Mapping[str, Any] | None = None
    host_step_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plugin:
    """``[workload]`` or ``[router]``: a plugin's name and its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PowerSection:
    """``[power]``: the servers around the accelerators; without it only those are counted.

    Attributes:
        count: equal servers.
        base_watts: of one: board, fans, losses of the power supply.
        cpu, dram, link, nic, storage: tables of ``hardware/power/server.py``, of one server.
        pue: what the building draws for each watt of a server.
        resolution_s: of power over time.

    Raises:
        InputError: a resolution that is not positive.
    """

    count: int = 1
    base_watts: float = 0.0
    cpu: Mapping[str, Any] = field(default_factory=dict)
    dram: Mapping[str, Any] = field(default_factory=dict)
    link: Mapping[str, Any] = field(default_factory=dict)
    nic: Mapping[str, Any] = field(default_factory=dict)
    storage: Mapping[str, Any] = field(default_factory=dict)
    pue: float = 1.0
    resolution_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.resolution_s > 0:
            raise InputError(f"[power] resolution_s must be positive, not {self.resolution_s}")


@dataclass(frozen=True, slots=True)
class CostSection:
    """``[cost]``: what the run costs.

    Attributes:
        usd_per_device_hour: of every accelerator; by the table of rents when None.
        usd_per_kwh: of electricity, where it is not part of the rent.
        carbon_g_per_kwh: CO2 equivalent of the grid (world, 2024: 473; Ember, Global Electricity
            Review 2025).

    Raises:
        InputError: a negative value.
    """

    usd_per_device_hour: float | None = None
    usd_per_kwh: float = 0.0
    carbon_g_per_kwh: float = 473.0

    def __post_init__(self) -> None:
        for name in ("usd_per_device_hour", "usd_per_kwh", "carbon_g_per_kwh"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"[cost] {name} must not be negative, not {value:g}")


@dataclass(frozen=True, slots=True)
class OutputSection:
    """``[output]``: where results go.

    Attributes:
        folder: of ``requests.csv``, ``steps.csv`` and ``summary.json``.
        report: an HTML report.
        trace: a Perfetto (Chrome) trace.
        power: a CSV file of power over time.
    """

    folder: Path | None = None
    report: Path | None = None
    trace: Path | None = None
    power: Path | None = None


@dataclass(frozen=True, slots=True)
class OffloadSection:
    """``[offload]``: memories below the device's that keep KV, fastest first.

    Attributes:
        tiers: tables with the fields of ``Tier`` (``runtime/tiers/options.py``).
        chunk_tokens, layerwise, recall, swap: as of ``Offload``, there.
    """

    tiers: tuple[Mapping[str, Any], ...] = ()
    chunk_tokens: int = 256
    layerwise: bool = True
    recall: Literal["always", "cheaper"] = "always"
    swap: bool = True


@dataclass(frozen=True, slots=True)
class PlacementSection:
    """``[placement]``: operators on devices beside the instance's own.

    Attributes:
        kind: of placer (``hardware/placers``); ``none`` leaves all on the instance's device,
            ``attention_ffn`` takes the FFNs away from it.
        options: of the placer.
        devices: tables with ``device``, ``name`` (the device's by default), ``link`` (a table with
            ``bandwidth`` and ``latency``; the device's link to its host by default), and ``to``
            (which device the link leads to; the instance's by default). Each tensor-parallel rank
            has its own.
        sub_batches: parts of the batch that overlap: one computes while another attends.
        ffn: where FFNs run, for ``attention_ffn``: a table with ``device`` (the instance's by
            default), ``count``, and ``link``, of each device to the other side.

    Raises:
        InputError: no parts, or a key that the kind has no use for.
    """

    kind: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    devices: tuple[Mapping[str, Any], ...] = ()
    sub_batches: int = 1
    ffn: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.sub_batches < 1:
            raise InputError(f"[placement] sub_batches must be at least 1, not {self.sub_batches}")
        if self.apart and (self.devices or self.options):
            raise InputError("[placement] kind 'attention_ffn' takes ffn, no devices or options")
        if self.ffn is not None and not self.apart:
            raise InputError(f"[placement] kind {self.kind!r} takes no ffn: only 'attention_ffn'")

    @property
    def apart(self) -> bool:
        """Whether attention and FFNs run on different devices."""
        return self.kind == "attention_ffn"


@dataclass(frozen=True, slots=True)
class Instance:
    """One engine, or ``count`` equal ones: ``[[instance]]``.

    Attributes:
        name: how results call it; copies are numbered.
        role: what it does of a request: all, its images, its prefill, or its decode.
    """

    name: str = "engine"
    count: int = 1
    model: ModelSection = field(default_factory=ModelSection)
    hardware: HardwareSection = field(default_factory=HardwareSection)
    engine: EngineConfig = field(default_factory=EngineConfig)
    role: Literal["both", "prefill", "decode", "encode"] = "both"
    offload: OffloadSection = field(default_factory=OffloadSection)
    expert_offload: ExpertOffloadSection = field(default_factory=ExpertOffloadSection)
    placement: PlacementSection = field(default_factory=PlacementSection)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"[[instance]] count must be at least 1, not {self.count}")
        if self.expert_offload.used and self.placement != PlacementSection():
            raise UnsupportedError("[expert_offload] together with [placement]")

    def require_complete(self) -> None:
        """Raise unless model and device are named.

        Raises:
            InputError: one of them is not.
        """
        if not self.model.id:
            raise InputError("no model is named: give --model or [model] id")
        if not self.hardware.device:
            raise InputError("no device is named: give --hardware or [hardware] device")
