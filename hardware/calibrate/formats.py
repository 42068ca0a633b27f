"""Number formats by the names that kernel tables give them."""

from __future__ import annotations

#: (arithmetic, weights) by the tables' names.
FORMATS = {
    "bfloat16": ("bf16", "bf16"),
    "float16": ("fp16", "fp16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8_block"),
    "nvfp4": ("nvfp4", "nvfp4"),
    "int4_wo": ("bf16", "int4"),
    "w4a16_mxfp4": ("bf16", "mxfp4"),
}
#: Elements that share a scale in block-scaled FP8.
BLOCK = 128 * 128
