"""Number formats by their common short names and what they weigh."""

from __future__ import annotations

from servesim.errors import UnknownNameError

#: Bits an element takes, block scales included where the format has them
#: (MXFP4: one 8-bit scale per 32, OCP MX v1.0; NVFP4: one 8-bit scale per 16). Blocks of an
#: ``fp8_block`` matrix have scales of any size, so those are counted beside it: only other kernels.
BITS: dict[str, float] = {
    "fp32": 32.0,
    "fp16": 16.0,
    "bf16": 16.0,
    "fp8": 8.0,
    "fp8_block": 8.0,
    "int8": 8.0,
    "int4": 4.0,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
}

#: Formats that vLLM keeps keys and values in (``CacheDType`` of its ``config/cache.py``).
KV_CACHES = ("bf16", "fp16", "fp8", "nvfp4")

_ALIASES = {
    "float32": "fp32",
    "float": "fp32",
    "half": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "float8_e5m2": "fp8",
}


def short_name(dtype: str) -> str:
    """The short name of ``dtype`` (``torch.bfloat16``, ``bfloat16`` and ``bf16`` are one).

    Raises:
        UnknownNameError: no such number format.
    """
    name = dtype.removeprefix("torch.").lower()
    name = _ALIASES.get(name, name)
    if name not in BITS:
        raise UnknownNameError("dtype", dtype, [*BITS, *_ALIASES])
    return name


def kv_cache_name(dtype: str) -> str:
    """The short name of ``dtype``, a format of a KV cache.

    Raises:
        UnknownNameError: no number format, or none that keys and values are kept in.
    """
    if (name := short_name(dtype)) not in KV_CACHES:
        raise UnknownNameError("kv_cache_dtype", dtype, ["auto", *KV_CACHES])
    return name


def bytes_per_element(dtype: str) -> float:
    """Bytes of one element of ``dtype``, block scales included."""
    return BITS[short_name(dtype)] / 8
