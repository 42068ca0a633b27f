"""The section of a scenario about experts outside the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from servesim.errors import InputError
from servesim.fields import NameOrPath


@dataclass(frozen=True, slots=True)
class ExpertOffloadSection:
    """``[expert_offload]``: routed experts outside the devices, which keep a few of each layer.

    Attributes:
        gpu_expert_slots: experts of each layer that a device keeps.
        gpu_memory_gb: the same in GiB, of all layers together.
        policy: which are kept: the last used (``lru``), the most used (``lfu``), or the most
            popular from the start (``static``).
        prefetch: experts of the next layer are predicted, and fetched while this one runs.
        prefetch_accuracy: chance that an expert which is needed was predicted; as many others are
            predicted in vain as are needed and were not.
        compute: experts that are not kept are copied to the device (``stream``), computed where
            they lie (``host``), or whichever takes less in a step (``cheaper``).
        host: the device where they lie; its devices share its memory's bandwidth.
        host_memory_gb: of the host, if other than its own.
        link: to there, in place of the device's own: a table with ``bandwidth`` and ``latency``.

    Raises:
        InputError: a value cannot be used, or does not go with another.
    """

    gpu_expert_slots: int | None = None
    gpu_memory_gb: float | None = None
    policy: Literal["lru", "lfu", "static"] = "lru"
    prefetch: Literal["none", "next_layer"] = "none"
    prefetch_accuracy: float | None = None
    compute: Literal["stream", "host", "cheaper"] = "stream"
    host: NameOrPath | None = None
    host_memory_gb: float | None = None
    link: Mapping[str, Any] | None = None

    @property
    def used(self) -> bool:
        """Whether any expert lies outside the devices."""
        return self.gpu_expert_slots is not None or self.gpu_memory_gb is not None

    def __post_init__(self) -> None:
        for name in ("gpu_expert_slots", "gpu_memory_gb", "host_memory_gb"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} must not be negative, not {value:g}")
        if self.gpu_expert_slots is not None and self.gpu_memory_gb is not None:
            raise InputError("give gpu_expert_slots or gpu_memory_gb, not both")
        if not self.used and any(getattr(self, f.name) != f.default for f in fields(self)):
            raise InputError("gpu_expert_slots or gpu_memory_gb is needed")
        self._check_prefetch()
        if self.compute != "stream" and self.host is None:
            raise InputError(f"compute {self.compute!r} needs a host")
        if self.compute != "stream" and self.policy == "lru":
            raise InputError(
                f"compute {self.compute!r} needs policy 'lfu' or 'static': an expert that is "
                "computed where it lies takes no slot"
            )

    def _check_prefetch(self) -> None:
        accuracy = self.prefetch_accuracy
        if (self.prefetch == "none") != (accuracy is None):
            raise InputError("prefetch 'next_layer' and prefetch_accuracy belong together")
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise InputError(f"prefetch_accuracy must be in [0, 1], not {accuracy:g}")
        if accuracy is not None and self.compute == "host":
            raise InputError("compute 'host' has nothing to prefetch")
