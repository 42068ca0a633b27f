"""The device file of what was measured: peaks, forms, curves and sums, as `simulate` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servesim.graph.work import GemmWork
from servesim.hardware.calibrate.write import calibration_text
from servesim.hardware.device import Device, Efficiency, MemoryTier
from servesim.hardware.link import Link
from servesim.hardware.measure.fitting import Fitted, Seconds
from servesim.hardware.measure.machine import Machine
from servesim.hardware.measure.power import Draw
from servesim.hardware.measure.probes import Probe

#: What peaks are raised by, so that a kernel measured at the peak is not told it cannot be.
_HEADROOM = 1.02
#: Rows from which a product counts as large, and up to which as one that streams its weights.
_LARGE_ROWS, _FEW_ROWS = 128, 4
#: Begins the note of where the numbers come from.
_NOTE = "measured by servesim profile on "
#: Formats computed in at the speed of bf16 or of nothing better: engines serve them so.
_FORMATS = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the numbers come from, for the file's comments and ``source`` entries."""

    date: str
    command: str
    versions: Mapping[str, str]
    kernels: str

    @property
    def source(self) -> str:
        """In one line."""
        what = software(self.kernels, self.versions)
        return f"{_NOTE}{self.date}: {what}"


def software(kernels: str, versions: Mapping[str, str]) -> str:
    """Whose kernels, of which versions."""
    return ", ".join([f"{kernels} kernels", *(f"{name} {v}" for name, v in versions.items())])


def software_noted(path: Path) -> str | None:
    """The `software` that a device file was measured with; None where it does not say."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lower().startswith(f"# {_NOTE}"):
            return line.partition(": ")[2]
    return None


def measured_device(
    name: str, machine: Machine, peaks: Mapping[Probe, float], seconds: Seconds, draw: Draw | None
) -> Device:
    """The device as its probes and fastest kernels show it, without any cost model yet.

    Args:
        peaks: seconds of each probe.
        seconds: seconds of each kernel.
        draw: what it draws, if that could be read.
    """
    flops = max(
        *(p.amount / s for p, s in peaks.items() if p.what == "arithmetic"),
        *(
            work.flops / s
            for work, s in seconds.items()
            if work.family == "gemm" and work.dtype in _FORMATS
        ),
    )
    reads = [(p.operand, p.amount / s) for p, s in peaks.items() if p.what in ("read", "copy")]
    largest = max(size for size, _ in reads) / 2  # a copy has two buffers of half the size
    far = max(rate for size, rate in reads if size >= largest)
    streamed = [
        work.weight_bytes / s
        for work, s in seconds.items()
        if isinstance(work, GemmWork) and _streams(work, machine)
    ]
    bandwidth = max([far, *streamed])
    near = max(rate for size, rate in reads if size < largest)
    launch = next(s for p, s in peaks.items() if p.what == "launch")
    return Device(
        name=name,
        title=machine.title,
        kind=machine.kind,
        cores=machine.cores,
        peak_flops=dict.fromkeys(_FORMATS, _HEADROOM * flops) | _other_formats(seconds),
        memory=MemoryTier("memory", machine.memory_bytes, _HEADROOM * bandwidth),
        cache=MemoryTier("last-level cache", machine.cache_bytes, max(near, bandwidth))
        if machine.cache_bytes
        else None,
        # To others of its kind and to the host: through memory, as far as anyone measured.
        host_link=Link("host memory", bandwidth, launch),
        clock_hz=draw.clock_hz if draw else 0.0,
        tdp_watts=draw.limit if draw else 0.0,
        idle_watts=draw.idle if draw else 0.0,
        efficiency=_efficiency(seconds, flops, bandwidth, launch),
    )


def device_text(device: Device, fitted: Fitted, origin: Origin, collectives: str = "") -> str:
    """The whole device file; ``collectives`` is the text of their table."""
    parts = [_head(device, origin), _measured(fitted.measured)]
    if fitted.calibration:
        head = {"date": origin.date}
        parts.append(calibration_text(dict(sorted(fitted.calibration.items())), head))
    parts.append(collectives)
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _head(device: Device, origin: Origin) -> str:
    assert device.host_link is not None
    lines = [
        f"# {device.title}.",
        f"# {origin.source[0].upper()}{origin.source[1:]}",
        f"# with: {origin.command}",
        f'name = "{device.name}"',
        f'title = "{device.title}"',
        f'kind = "{device.kind}"',
        f"cores = {device.cores}",
    ]
    if device.tdp_watts:
        lines += [
            f"tdp_watts = {device.tdp_watts:.1f}  # the enforced limit",
            f"idle_watts = {device.idle_watts:.1f}  # read before the first kernel",
        ]
    if device.clock_hz:
        lines.append(f"clock_hz = {device.clock_hz:.4g}  # under a large product")
    lines += ["", "[peak_flops]  # the fastest product measured, and 2 %"]
    lines += [f"{dtype} = {flops:.4g}" for dtype, flops in device.peak_flops.items()]
    tiers = {"memory": device.memory, "cache": device.cache}
    for key, tier in tiers.items():
        if tier is not None:
            note = "the fastest read, copy or product streaming its weights, and 2 %"
            lines += ["", f"[{key}]  # bandwidth: {note if key == 'memory' else 'fastest read'}"]
            lines += [f'name = "{tier.name}"', f"capacity_bytes = {tier.capacity_bytes:.6g}"]
            lines += [f"bandwidth = {tier.bandwidth:.4g}"]
    link, e = device.host_link, device.efficiency
    lines += ["", "[host_link]  # estimate: as fast as memory, a launch away"]
    lines += [f'name = "{link.name}"', f"bandwidth = {link.bandwidth:.4g}"]
    lines += [f"latency = {link.latency:.4g}"]
    if (peers := device.scale_up) is not None:
        lines += ["", "[scale_up]  # the fastest stream and the quickest message between two ranks"]
        lines += [f'name = "{peers.name}"', f"bandwidth = {peers.bandwidth:.4g}"]
        lines += [f"latency = {peers.latency:.4g}"]
    lines += ["", "[efficiency]  # of kernels that were not measured: shares large products and"]
    lines += ["# weights streamed for few rows reach, and what an empty kernel takes"]
    lines += [f"compute = {e.compute:.3f}", f"memory = {e.memory:.3f}", f"launch = {e.launch:.4g}"]
    return "\n".join(lines)


def _measured(families: Mapping[str, Mapping[str, Any]]) -> str:
    """``[measured.<family>]`` tables, one line a shape."""
    lines = []
    if families:
        lines.append("# Seconds over rows (curves), or of each term (sums), by shape.")
    for family, shapes in families.items():
        lines += [f"[measured.{family}]"]
        for shape, values in sorted(shapes.items()):
            if isinstance(values, Mapping):
                inner = ", ".join(f"{name} = {value!r}" for name, value in values.items())
                lines.append(f'"{shape}" = {{{inner}}}')
            else:
                lines.append(f'"{shape}" = {values!r}')
        lines.append("")
    return "\n".join(lines)


def _other_formats(seconds: Seconds) -> dict[str, float]:
    """The fastest products of formats that have peaks of their own."""
    found: dict[str, float] = {}
    for work, s in seconds.items():
        if isinstance(work, GemmWork) and work.dtype not in _FORMATS:
            found[work.dtype] = max(found.get(work.dtype, 0.0), _HEADROOM * work.flops / s)
    return found


def _efficiency(seconds: Seconds, flops: float, bandwidth: float, launch: float) -> Efficiency:
    large = [
        work.flops / s / flops
        for work, s in seconds.items()
        if isinstance(work, GemmWork) and work.m >= _LARGE_ROWS
    ]
    few = [
        (work.bytes_read + work.bytes_written) / s / bandwidth
        for work, s in seconds.items()
        if isinstance(work, GemmWork) and work.m <= _FEW_ROWS
    ]
    return Efficiency(_share(large, 0.75), _share(few, 0.8), launch)


def _share(found: Sequence[float], otherwise: float) -> float:
    """The upper quartile of shares, within what an efficiency may be."""
    if not found:
        return otherwise
    ordered = sorted(found)
    return min(1.0, max(0.01, ordered[3 * len(ordered) // 4]))


def _streams(work: GemmWork, machine: Machine) -> bool:
    """Whether a product's weights surely came from memory."""
    return work.m <= _FEW_ROWS and work.weight_bytes > machine.cache_bytes / 4
