"""servesim: an operator-graph simulator of LLM serving.

``from servesim import simulate, Scenario`` is all that a script needs; both are loaded on first
use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servesim.scenario import Result, Scenario, simulate

__version__ = "0.1.0"
__all__ = ["Result", "Scenario", "__version__", "simulate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("servesim.scenario"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
