"""The sizes of a dense transformer that its layer latencies were measured at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servesim.errors import InputError


@dataclass(frozen=True, slots=True)
class Geometry:
    """A dense decoder: widths and heads before sharding."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def of_config(cls, values: Mapping[str, Any]) -> Geometry:
        """From a Hugging Face config.json.

        Raises:
            InputError: a size is missing.
        """
        try:
            heads = int(values["num_attention_heads"])
            return cls(
                hidden=int(values["hidden_size"]),
                intermediate=int(values["intermediate_size"]),
                heads=heads,
                kv_heads=int(values.get("num_key_value_heads", heads)),
                head_dim=int(values.get("head_dim") or values["hidden_size"] // heads),
                vocab=int(values["vocab_size"]),
            )
        except KeyError as error:
            raise InputError(f"the model's config has no {error}") from error
