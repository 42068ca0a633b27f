"""Operator kinds, one file each: what they compute, hold and how they split among ranks."""

from __future__ import annotations

from servesim.graph.op import OpSpec
from servesim.registry import Registry

#: Every operator kind by name; a new file in this package adds one.
KINDS: Registry[OpSpec] = Registry("operator kind", "servesim.graph.ops")
