"""Workloads, one file each: where requests come from."""

from __future__ import annotations

from typing import Protocol

from servesim.registry import Registry
from servesim.runtime.source import Source


class Workload(Protocol):
    """A description of traffic, from which any number of equal runs can be made."""

    def source(self) -> Source:
        """The requests, from the start.

        Raises:
            InputError: a file cannot be read, or there are no requests.
        """


WORKLOADS: Registry[Workload] = Registry("workload", "servesim.runtime.workloads")
