"""The small architectures that are run on a real engine: one for each kind of operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from servesim.registry import called

_FOLDER = Path(__file__).resolve().parent / "models"


@dataclass(frozen=True)
class Architecture:
    """A model small enough for any machine.

    Attributes:
        name: what files and tables call it; its config.json is in a folder of this name.
        shapes_cost_model: whether its runs were looked at while the cost model was built; the
            others are what the simulator is judged by.
        kv_tokens: room of the KV cache, chosen so that long answers overfill it.
        options: what the engine needs for it, by vLLM's names.
        place: the folder of its config.json, if it is not one of ours.
    """

    name: str
    shapes_cost_model: bool
    kv_tokens: int = 6144
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    place: Path | None = None

    @property
    def folder(self) -> Path:
        """Holds the model's config.json."""
        return self.place or _FOLDER / self.name


#: The first six shape the cost model. Held out are full attention with layer norms and parallel
#: residuals, experts beside a shared one, and norms after the blocks under a large vocabulary.
#: The hybrid model is there again with prefix caching, for what is decided.
ARCHITECTURES = (
    Architecture("dense-gqa", True),
    Architecture("moe", True),
    Architecture(
        "hybrid",
        True,
        options={
            "block_size": None,  # the engine makes it hold a recurrent state
            "num_gpu_blocks_override": 96,
            "enable_prefix_caching": False,
        },
    ),
    Architecture("sliding-window", True, kv_tokens=15360),
    Architecture("mla", True, options={"block_size": 16}),
    Architecture("big-vocabulary", True),
    Architecture("mha-layernorm", False),
    Architecture("shared-experts", False),
    Architecture("post-norm", False),
    Architecture(
        "hybrid-cached",
        True,
        # Not given, the CPU platform would align prompts to its default instead.
        options={"block_size": 640, "num_gpu_blocks_override": 96},
        place=_FOLDER / "hybrid",
    ),
)


def architecture(name: str) -> Architecture:
    """The architecture called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    return called("architecture", name, ARCHITECTURES)
