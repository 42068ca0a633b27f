"""From a model's config to its module on the meta device: real code, no weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from servesim.errors import InputError, UnsupportedError
from servesim.graph.trace import hooks

#: Keys of config.json that say how weights are stored, not what is computed.
_NOT_STRUCTURE = ("quantization_config", "model_type", "architectures", "auto_map", "torch_dtype")


def build_model(values: dict[str, Any], dtype: str) -> Any:
    """The causal language model of config ``values``, on meta tensors, ready to be traced.

    Args:
        values: the content of config.json.
        dtype: short name of the number format, e.g. ``bf16``.

    Raises:
        UnsupportedError: ``transformers`` has no causal language model of this type.
        InputError: the config does not build.
    """
    hooks.install()
    import torch
    from transformers import CONFIG_MAPPING

    model_type = str(values.get("model_type", ""))
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedError(
            f"the installed transformers does not know model_type {model_type!r}"
        )
    given = {k: v for k, v in values.items() if k not in _NOT_STRUCTURE}
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    with quiet():
        try:
            config = CONFIG_MAPPING[model_type](**given)
            return instantiate(config, torch_dtype)
        except (UnsupportedError, InputError):
            raise
        except Exception as error:
            raise InputError(
                f"the config of model_type {model_type!r} does not build: {_first_line(error)}"
            ) from error


def instantiate(config: Any, dtype: Any) -> Any:
    """The causal language model of ``config`` with every hookable operator hooked.

    Raises:
        UnsupportedError: the type has no causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=hooks.IMPLEMENTATION,
            experts_implementation=hooks.IMPLEMENTATION,
        )
    model.tie_weights()
    return model.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the advice that ``transformers`` logs while building."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
