"""Attention: decodes, prefills, and both in one step."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.work import AttentionWork
from servesim.hardware.forms.decode import DecodeForm
from servesim.hardware.forms.latent_decode import LatentDecodeForm
from servesim.hardware.forms.latent_prefill import LatentPrefillForm
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.prefill import PrefillForm, decodes_as_blocks


@dataclass(frozen=True, slots=True)
class AttentionForm:
    """Decodes, prefills and their mixture."""

    decode: DecodeForm | LatentDecodeForm
    prefill: PrefillForm | LatentPrefillForm

    def seconds(self, work: AttentionWork, machine: Machine, resident: float = 0.0) -> float:
        """Time of ``work``; ``resident`` as in :class:`DecodeForm`."""
        if not self.apart(work):
            return self.prefill.seconds(work, machine)
        seconds = self.decode.seconds(work, machine, resident)
        if not work.prefills:
            return seconds
        return self.prefill.seconds(work, machine) + seconds - self.decode.launch

    def apart(self, work: AttentionWork) -> bool:
        """Whether a kernel, or a part, of their own goes through the keys of the decodes."""
        joint = self.prefill.joint and not work.latent
        if not work.prefills:
            return not (joint and decodes_as_blocks(work))
        return work.decodes > 0 and not joint
