"""Kernels predicted by physical forms whose few coefficients were fitted to measurements."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from servesim.errors import UnknownNameError
from servesim.graph.work import AttentionWork, GemmWork, MemoryWork, MoeWork, RecurrentWork, Work
from servesim.hardware.bounds import least_seconds
from servesim.hardware.calibration_entry import Entry, completed, read_entry
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.device import Device
from servesim.hardware.forms.attention import AttentionForm
from servesim.hardware.forms.decode import DecodeForm
from servesim.hardware.forms.extent import decode_extent, extent, prefill_extent
from servesim.hardware.forms.gemm import GemmForm
from servesim.hardware.forms.keys import attention_key, form_kind, gemm_key, moe_key
from servesim.hardware.forms.latent_decode import LatentDecodeForm
from servesim.hardware.forms.latent_prefill import LatentPrefillForm
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.memory import MemoryForm
from servesim.hardware.forms.moe import MoeForm
from servesim.hardware.forms.prefill import PrefillForm
from servesim.hardware.forms.recurrent import RecurrentForm

#: Form by the family's name in ``[calibration.<family>.<key>]``.
FORMS: dict[str, type] = {
    "gemm": GemmForm,
    "decode": DecodeForm,
    "prefill": PrefillForm,
    "memory": MemoryForm,
    "moe": MoeForm,
    "recurrent": RecurrentForm,
}
#: Forms that variants of a family have instead (``form_kind``).
VARIANTS: dict[str, type] = {
    "latent_decode": LatentDecodeForm,
    "latent_prefill": LatentPrefillForm,
}
#: Keys of a calibration beside the families.
_HEAD = ("borrow", "date", "held_out")
#: Recurrences that keep a matrix a head: where one was not measured, another's form serves.
#: Those with a state a channel (selective scans) run kernels of another kind.
_MATRIX_STATES = ("gated_delta", "linear_attention", "ssd")


@dataclass(frozen=True)
class CalibratedCost:
    """Seconds by the forms in ``entries``, of ``device`` itself or borrowed.

    Never faster than the device's peak arithmetic, nor than its memory delivers what exceeds its
    cache. Families without an entry are left to ``fallback``.

    Attributes:
        entries: by family, then by key (number format, head width, kernel).
    """

    device: Device
    entries: Mapping[str, Mapping[str, Entry]]
    fallback: CostModel
    _machines: dict[tuple[str, int], Machine] = field(
        default_factory=dict, repr=False, compare=False
    )
    _found: dict[tuple[str, str], Entry | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def from_coefficients(
        cls,
        device: Device,
        coefficients: Mapping[str, Any],
        families: Collection[str] = tuple(FORMS),
    ) -> CostModel:
        """The cost model of a device file's ``[calibration]`` table.

        ``borrow`` names a device whose coefficients serve where there are none, or one for each
        family (``other`` for those not named): they are relative to peaks, so they carry over to
        this device's own. Of other ``families`` nothing is read.

        Raises:
            InputError: a table lacks a coefficient or names an unknown one.
        """
        from servesim.hardware.lending import borrow
        from servesim.hardware.roofline import RooflineCost

        entries = {family: dict[str, Entry]() for family in FORMS}
        for family, tables in coefficients.items():
            if family in _HEAD:
                continue
            if family not in FORMS:
                raise UnknownNameError("calibration table", family, [*FORMS, *_HEAD])
            for key in tables if family in families else ():
                form = VARIANTS.get(form_kind(family, key), FORMS[family])
                where = f"{device.name}: {family}.{key}"
                entries[family][key] = read_entry(form, completed(tables, key, where), where)
        if "borrow" in coefficients:
            borrow(entries, coefficients["borrow"], device, families)
        return cls(device, entries, RooflineCost(device))

    def cost(self, work: Work, resident: float = 0.0) -> Cost:
        """The cost of ``work``.

        ``resident``: share of its weights, or of its cache, that a benchmark left in the
        last-level cache; 0 in serving.

        Raises:
            UnsupportedError: a family or number format the device cannot run.
        """
        found = self._form_cost(work, resident)
        if found is None:
            return self.fallback.cost(work)
        seconds, source = found
        return Cost(max(seconds, least_seconds(work, self.device)), source)

    def _form_cost(self, work: Work, resident: float) -> tuple[float, Source] | None:
        if isinstance(work, GemmWork):
            return self._plain("gemm", gemm_key(work), work, work.m == 0, resident)
        if isinstance(work, MemoryWork):
            return self._plain("memory", work.kernel, work, work.rows == 0)
        if isinstance(work, MoeWork):
            return self._plain("moe", moe_key(work), work, work.tokens == 0, resident)
        if isinstance(work, RecurrentWork):
            empty = work.prefill_tokens + work.decodes == 0
            return self._plain("recurrent", work.recurrence, work, empty)
        if isinstance(work, AttentionWork):
            return self._attention(work, resident)
        return None

    def _plain(
        self, family: str, key: str, work: Work, empty: bool, *resident: float
    ) -> tuple[float, Source] | None:
        entry = self._entry_for(family, key)
        if entry is None:
            return None
        if empty:
            return 0.0, entry.source
        seconds = entry.form.seconds(work, self._machine(work.dtype, entry), *resident)
        return seconds, entry.source_for(extent(work))

    def _attention(self, work: AttentionWork, resident: float) -> tuple[float, Source] | None:
        key = attention_key(work)
        decode, prefill = self._entry_for("decode", key), self._entry_for("prefill", key)
        if decode is None or prefill is None:
            return None
        sources = [Source.CALIBRATED]
        if work.decodes:
            sources.append(decode.source_for(decode_extent(work)))
        if work.prefills:
            sources.append(prefill.source_for(prefill_extent(work)))
        form = AttentionForm(decode.form, prefill.form)
        machine, own = (self._machine(work.dtype, entry) for entry in (prefill, decode))
        seconds = form.seconds(work, machine, resident, own)
        if work.repeated_keys and machine.cache_bytes and form.apart(work):
            sources.append(Source.ANALYTICAL)  # nobody measured keys that sequences share
        return seconds, max(sources, key=list(Source).index)

    def _machine(self, dtype: str, entry: Entry) -> Machine:
        machine = self._machines.get((dtype, entry.cores))
        if machine is None:
            machine = machine_of(self.device, dtype)
            if entry.cores:
                machine = dataclasses.replace(machine, cores=entry.cores)
            self._machines[dtype, entry.cores] = machine
        return machine

    def _entry_for(self, family: str, key: str) -> Entry | None:
        """The entry of ``key``, or the nearest variant's, which then counts as analytical."""
        if (family, key) not in self._found:
            entries = self.entries[family]
            if family == "recurrent" and key not in entries:
                alike = _MATRIX_STATES if key in _MATRIX_STATES else ()
                entries = {name: entries[name] for name in alike if name in entries}
            self._found[family, key] = _nearest(entries, key)
        return self._found[family, key]


def machine_of(device: Device, dtype: str) -> Machine:
    """``device`` as the forms see it; formats without a peak of their own compute in 32 bit.

    Raises:
        UnsupportedError: the device cannot compute in ``dtype``.
    """
    return Machine(
        device.flops_for(dtype),
        device.memory.bandwidth,
        device.cache_bytes,
        device.cores,
        device.cache.bandwidth if device.cache else 0.0,
    )


def _nearest(entries: Mapping[str, Entry], key: str) -> Entry | None:
    """The entry of ``key``, or the one most like it.

    Of other formats a 16-bit one: weights of fewer bits in 16-bit arithmetic (GPTQ, AWQ) have their
    own bytes streamed at its share of bandwidth.
    """
    if key in entries or not entries:
        return entries.get(key)
    dtype, _, variant = key.partition("_")
    width, _, kind = variant.partition("_")

    def distance(other: str) -> tuple[bool, bool, bool, float, bool]:
        other_dtype, _, other_variant = other.partition("_")
        other_width, _, other_kind = other_variant.partition("_")
        gap = math.inf
        if width.isdigit() and other_width.isdigit():
            gap = abs(math.log(int(width) / int(other_width)))
        unlike = width.isdigit() != other_width.isdigit()
        return unlike, kind != other_kind, other_dtype != dtype, gap, other_dtype != "bf16"

    chosen = min(sorted(entries), key=distance)
    return dataclasses.replace(entries[chosen], source=Source.ANALYTICAL)
