"""Tracing the vision tower of a multimodal checkpoint into a graph of its own."""

from __future__ import annotations

import inspect
from typing import Any

from servesim.errors import UnsupportedError
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.canonical import canonicalise
from servesim.graph.trace.capture import record_call
from servesim.models.build import build_tower, first_line, quiet
from servesim.models.config import ModelConfig

#: Side of the image traced where the tower takes images of any size (pixels).
IMAGE_SIDE = 448


def trace_tower(config: ModelConfig, dtype: str) -> OpGraph | None:
    """The graph of the vision tower for one image, a row a patch; None without a tower.

    The image has the largest size the config names, or `IMAGE_SIDE` pixels a side.

    Raises:
        InputError, UnsupportedError: the tower does not build or cannot be traced.
    """
    tower = build_tower(config.values, dtype)
    if tower is None:
        return None
    arguments, patches = _image(tower)
    with quiet():
        try:
            trace = record_call(tower, arguments, patches)
        except Exception as error:
            message = f"the vision tower of {config.name} cannot be traced: {first_line(error)}"
            raise UnsupportedError(message) from error
    blocks = canonicalise(trace, dtype)
    parameters = sum(op.spec.weight_elements * b.count for b in blocks for op in b.ops)
    graph = OpGraph(
        model=f"{config.name} (vision tower)",
        blocks=blocks,
        caches=(),
        parameters=parameters,
        active_parameters=parameters,
        weight_bytes=parameters * bytes_per_element(dtype),
        hidden_size=int(tower.config.hidden_size),
        vocab_size=0,
        max_model_len=patches,
        dtype=dtype,
        notes=tuple(trace.notes),
    )
    graph.lint()
    return graph


def _image(tower: Any) -> tuple[dict[str, Any], int]:
    """Arguments for one image, and the patches it is cut into."""
    import torch

    config, known = tower.config, inspect.signature(tower.forward).parameters
    patch = int(getattr(config, "patch_size", 14))
    values = vars(config)
    channels = int(values.get("num_channels") or values.get("in_channels") or 3)
    element = next(tower.parameters()).dtype
    if "grid_thw" in known:  # patches in a row, and how many there are down and across
        side = IMAGE_SIDE // patch // 4 * 4
        frames = int(getattr(config, "temporal_patch_size", 1))
        pixels = torch.empty(
            side * side, channels * frames * patch**2, dtype=element, device="meta"
        )
        first = next(iter(known))
        return {first: pixels, "grid_thw": torch.tensor([[1, side, side]])}, side * side
    size = getattr(config, "image_size", IMAGE_SIDE)
    pixels_a_side = int(size if isinstance(size, int) else IMAGE_SIDE)
    pixels = torch.empty(1, channels, pixels_a_side, pixels_a_side, dtype=element, device="meta")
    arguments: dict[str, Any] = {"pixel_values": pixels}
    if "image_sizes" in known:
        arguments["image_sizes"] = [(pixels_a_side, pixels_a_side)]
    return arguments, (pixels_a_side // patch) ** 2
