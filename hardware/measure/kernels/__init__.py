"""Kernels to measure, by provider: one file a family, one function that binds an operator."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.measure.bench import Maker

#: Where the kernels come from: module, and the package it needs.
PROVIDERS = {"torch": "torch", "vllm": "vllm"}


def makers(provider: str) -> Mapping[str, Maker]:
    """The makers of ``provider`` by kind of operator, whether its package is here or not.

    Raises:
        UnknownNameError: no such provider.
    """
    if provider not in PROVIDERS:
        raise UnknownNameError("kernels", provider, PROVIDERS)
    module = importlib.import_module(f"{__name__}.{provider}_provider")
    found: Mapping[str, Maker] = module.makers()
    return found


def usable_makers(provider: str) -> Mapping[str, Maker]:
    """The makers of ``provider``, whose package is installed.

    Raises:
        UnknownNameError: no such provider.
        InputError: its package is not installed.
    """
    found = makers(provider)
    try:
        importlib.import_module(PROVIDERS[provider])
    except ImportError as error:
        raise InputError(f"--kernels {provider}: {error}") from error
    return found
