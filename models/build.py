"""From a model's config to its module on the meta device: real code, no weights."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from servesim.errors import InputError, ServesimError, UnsupportedError
from servesim.graph.trace import hooks

#: Keys of config.json that say how weights are stored, not what is computed.
_NOT_STRUCTURE = ("quantization_config", "model_type", "architectures", "auto_map", "torch_dtype")
#: Attention implementations, the recorded one first; older code knows only its own.
_ATTENTION = (hooks.IMPLEMENTATION, "sdpa", "eager")


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
    from transformers import CONFIG_MAPPING

    model_type = str(values.get("model_type", ""))
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedError(f"the installed transformers knows no model_type {model_type!r}")
    given = _structure(values)
    with quiet():
        try:
            return instantiate(CONFIG_MAPPING[model_type](**given), dtype)
        except ServesimError:
            raise
        except Exception as error:
            raise InputError(
                f"the config of model_type {model_type!r} does not build: {first_line(error)}"
            ) from error


def _structure(values: dict[str, Any]) -> dict[str, Any]:
    """What decides the computation, as a copy: config classes change what they are given."""
    return copy.deepcopy({k: v for k, v in values.items() if k not in _NOT_STRUCTURE})


def instantiate(config: Any, dtype: str) -> Any:
    """The language model of ``config`` with every operator hooked that can be.

    Raises:
        UnsupportedError: the type has no causal language model.
    """
    import torch

    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    complete(config)
    failure: Exception | None = None
    for part in _language_configs(config):
        for attention in _ATTENTION:
            try:
                model = _from_config(_model_class(part, config), part, torch_dtype, attention)
            except Exception as error:  # older code picks attention from a list of its own
                failure = failure or error
            else:
                hooks.hook_experts(model)
                model.tie_weights()
                return model.eval()
    assert failure is not None
    raise failure


def build_tower(values: dict[str, Any], dtype: str) -> Any:
    """The vision tower of a multimodal config, on meta tensors; None if it has none.

    Raises:
        InputError: the config does not build.
    """
    hooks.install()
    import torch
    from transformers import CONFIG_MAPPING, PreTrainedModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    given = _structure(values)
    with quiet():
        config = CONFIG_MAPPING[str(values["model_type"])](**given)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return None
        model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
        try:
            model = _from_config(model_class, config, torch_dtype, hooks.IMPLEMENTATION).eval()
        except Exception as error:
            raise InputError(f"the vision tower does not build: {first_line(error)}") from error
    for module in model.modules():
        kind = type(getattr(module, "config", None)).__name__.lower()
        if "vision" in kind and isinstance(module, PreTrainedModel):
            return module
    return None


def complete(config: Any) -> None:
    """Fill in what older config classes leave open and the modelling code expects."""
    values = vars(config)
    heads = values.get("num_attention_heads")
    if heads and values.get("num_key_value_heads", 0) is None:
        config.num_key_value_heads = heads
    if heads and values.get("head_dim", 0) is None and values.get("hidden_size"):
        config.head_dim = config.hidden_size // heads
    if "is_decoder" in values:
        config.is_decoder = True


def _language_configs(config: Any) -> Iterator[Any]:
    """The config itself, then that of its language model alone."""
    yield config
    part = config.get_text_config(decoder=True)
    if part is not config:
        complete(part)
        yield part


def _model_class(config: Any, whole: Any) -> Any:
    """The class that makes a language model of ``config``, a part of the config ``whole``.

    Raises:
        UnsupportedError: there is none.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    for kind in (type(config), type(whole)):
        for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
            if kind in mapping:
                return mapping[kind]
    raise UnsupportedError(f"transformers has no causal language model of {config.model_type!r}")


def _from_config(model_class: Any, config: Any, dtype: Any, attention: str) -> Any:
    import torch
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        return model_class._from_config(
            config,
            dtype=dtype,
            attn_implementation=attention,
            experts_implementation=hooks.IMPLEMENTATION,
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the advice that ``transformers`` logs while building and running."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """Type and first line of an error, with the next one where that only announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
