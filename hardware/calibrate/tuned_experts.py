"""Experts that vLLM runs with settings tuned on the device, not with its defaults.

Names of the files in ``vllm/model_executor/layers/fused_moe/configs`` of vLLM 0.32 (Apache-2.0):
experts on a rank x width of an expert there, by device and format.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Settings of A100 SXM4 80 GB, H100 SXM, H200 and B200.
TUNED: Mapping[str, Mapping[str, str]] = {
    "a100_sxm": {
        "moe.bf16": (
            "1x1792 1x3584 1x7168 1x14336 8x1792 8x2048 8x3584 8x4096 8x7168 16x1344 16x1792 "
            "16x2688 16x3584 16x7168 16x14336 64x640 64x1280 128x192 512x64 512x128"
        ),
    },
    "h100_sxm": {
        "moe.bf16": (
            "1x3072 8x1792 8x2048 8x3584 8x4096 8x7168 16x1344 16x1792 16x2688 32x1792 62x256 "
            "62x512 64x320 64x640 64x1280 64x1536 72x384 72x768 128x192 128x384 128x512 "
            "128x928 128x1856 128x2880 256x512 512x128 512x256 512x512"
        ),
        "moe.fp8": (
            "8x2048 8x3584 8x4096 8x7168 8x8192 8x14336 16x800 16x3200 16x6400 64x320 64x640 "
            "64x1280 64x2560 64x8960 128x352 128x704 128x8960"
        ),
    },
    "h200_sxm": {
        "moe.bf16": (
            "8x1792 8x2048 8x3584 8x4096 8x7168 8x14336 16x1024 16x2048 64x320 64x640 64x1280 "
            "64x2560 128x96 128x192 128x384 128x512 128x768 128x1024 512x64 512x128 512x256 "
            "512x512"
        ),
        "moe.fp8": (
            "8x1792 8x2048 8x3584 8x4096 8x7168 8x8192 8x14336 16x1024 16x2048 64x320 64x640 "
            "64x1280 64x2560 128x96 128x512 128x1024 128x1856 160x192"
        ),
        "moe.fp8_block": "8x2048 16x4096 32x2048 128x384 128x512 128x768 256x256 256x512 384x128",
    },
    "b200_sxm": {
        "moe.bf16": (
            "16x1024 32x1408 64x1408 128x512 128x768 128x1856 512x64 512x128 512x256 512x512 "
            "512x672 512x1344"
        ),
        "moe.fp8_block": (
            "16x4096 20x2560 32x2048 40x2560 64x512 128x384 128x512 128x768 160x640 256x256 "
            "256x512 384x128 384x256 512x128 512x256 512x512"
        ),
    },
}
