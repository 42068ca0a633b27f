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

    def seconds(
        self,
        work: AttentionWork,
        machine: Machine,
        resident: float = 0.0,
        decoding: Machine | None = None,
    ) -> float:
        """Time of ``work``; ``resident`` as in :class:`DecodeForm`.

        ``decoding``: the machine as decodes that run apart see it; ``machine`` without.
        """
        if not self.apart(work):
            return self.prefill.seconds(work, machine)
        seconds = self.decode.seconds(work, decoding or machine, resident)
        if not work.prefills:
            return seconds
        return self.prefill.seconds(work, machine) + seconds - self.decode.launch

    def apart(self, work: AttentionWork) -> bool:
        """Whether the keys of decodes are read by a kernel, or a part of one, that is theirs alone.

        Nobody's keys are, too, unless one kernel would run decodes as it runs prefills.
        """
        joint = self.prefill.joint and not work.latent
        if not work.prefills:
            return not (joint and decodes_as_blocks(work))
        return work.decodes > 0 and not joint
