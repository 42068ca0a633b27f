"""What a checkpoint holds beside the traced language model: rotary tables, vision towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servesim.graph.dtypes import bytes_per_element
from servesim.models.config import ModelConfig

Values = Mapping[str, Any]

#: Keys of a vision config without which its size cannot be told.
_NEEDED = ("patch_size", "hidden_size", "intermediate_size")


def rotary_bytes(config: ModelConfig, dtype: str) -> float:
    """Bytes of the tables of cosines and sines that vLLM builds while loading.

    One table for each kind of rotary embedding (Gemma 3 has one of its own for windowed layers),
    one row a position (as many as a linear or YaRN scaling stretches them to), one element a
    rotated dimension.
    """
    values = config.language_values
    if not any(key.startswith(("rope", "rotary")) for key in values):
        return 0.0
    rows = sum(_rows(values, scaling) for scaling in _scalings(values))
    return rows * _rotated(values) * bytes_per_element(dtype)


def _scalings(values: Values) -> list[Values]:
    """The scaling of every rotary embedding; an empty one is none."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    nested = [each for each in given.values() if isinstance(each, Mapping)]
    local: list[Values] = [{}] if "rope_local_base_freq" in values else []
    return [*(nested or [given]), *local]


def _rows(values: Values, scaling: Values) -> float:
    positions = float(values.get("max_position_embeddings", 2048))
    kind, factor = scaling.get("rope_type", scaling.get("type")), scaling.get("factor", 1.0)
    if kind == "linear":
        return float(positions * factor)
    if kind == "yarn" and "original_max_position_embeddings" in scaling:
        return float(factor * scaling["original_max_position_embeddings"])
    return positions


def _rotated(values: Values) -> float:
    """Rotated dimensions of a head."""
    if "qk_rope_head_dim" in values:
        return float(values["qk_rope_head_dim"])
    heads = values.get("num_attention_heads", 1)
    width = values.get("head_dim") or values.get("hidden_size", 0) // heads
    scaling = values.get("rope_parameters") or {}
    share = scaling.get("partial_rotary_factor", values.get("rotary_pct", 1.0))
    share = values.get("partial_rotary_factor", share)
    return float(values.get("rotary_dim") or width * share)


@dataclass(frozen=True, slots=True)
class VisionTower:
    """A vision transformer and its projector, as far as memory goes.

    Attributes:
        parameters: of tower and projector, to within a few percent.
        tokens_per_image: language-model tokens of one image of the largest size; None where
            images of any size are taken.
        pixels_per_token: values of the input that become one token.
        patches_per_token: rows of the tower that become one token.
        embeddings: vectors of the hidden size that the language model gets for each token.
    """

    parameters: int
    tokens_per_image: int | None
    pixels_per_token: float
    patches_per_token: float = 1.0
    embeddings: int = 1

    def encoder_bytes(self, hidden_size: int, tokens: int, dtype: str) -> float:
        """Bytes of the largest batch of images of at most ``tokens`` tokens: the pixels, and the
        cached embeddings of ``hidden_size``, both alive while vLLM measures its peak.
        """
        if self.tokens_per_image:
            tokens = max(1, tokens // self.tokens_per_image) * self.tokens_per_image
        return tokens * (hidden_size + self.pixels_per_token) * bytes_per_element(dtype)


def vision_tower(config: ModelConfig) -> VisionTower | None:
    """The vision tower of a multimodal checkpoint; None where there is none of the usual kind."""
    values = config.values
    vision = values.get("vision_config") or values.get("thinker_config", {}).get("vision_config")
    if not isinstance(vision, dict) or not all(key in vision for key in _NEEDED):
        return None
    merge = int(vision.get("spatial_merge_size", values.get("spatial_merge_size", 1)))
    side = _side(vision["patch_size"]) * merge
    frames = int(vision.get("temporal_patch_size", 1))
    image = _side(vision.get("image_size") or 0)
    tokens = values.get("mm_tokens_per_image") or (image // side) ** 2 or None
    per_token = image**2 / tokens if image and tokens else float(side**2)
    hidden_size = int(config.language_values.get("hidden_size", 0))
    return VisionTower(
        _transformer(vision) + _projector(vision, merge, hidden_size),
        tokens,
        3.0 * frames * per_token,
        per_token / _side(vision["patch_size"]) ** 2,
        1 + len(vision.get("deepstack_visual_indexes", ())),
    )


def _side(size: Any) -> int:
    """The side of a square given as a number or as height and width."""
    return int(size[0] if isinstance(size, list | tuple) else size)


def _transformer(vision: Values) -> int:
    """4·h² of attention and two matrices of the MLP (three when gated by SiLU) a layer."""
    hidden, width = int(vision["hidden_size"]), int(vision["intermediate_size"])
    layers = int(vision.get("num_hidden_layers", vision.get("depth", 0)))
    matrices = 3 if vision.get("hidden_act") == "silu" else 2
    patch = 3 * _side(vision["patch_size"]) ** 2 * int(vision.get("temporal_patch_size", 1))
    return layers * (4 * hidden**2 + matrices * hidden * width) + patch * hidden


def _projector(vision: Values, merge: int, hidden_size: int) -> int:
    """Merged patches through a square matrix and one to the hidden size; once more for each layer
    that feeds the language model directly.
    """
    merged = int(vision["hidden_size"]) * merge**2
    square = merged**2 if merge > 1 else 0
    copies = 1 + len(vision.get("deepstack_visual_indexes", ()))
    return copies * (square + merged * hidden_size)
