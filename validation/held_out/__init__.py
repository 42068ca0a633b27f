"""RTX PRO 6000 as fitted without one model's layer latencies: device files by that model.

A serving run predicted with the file of its own model rests on no measurement of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent

#: Device file by the model it has never seen.
DEVICE_FILES: Mapping[str, Path] = {
    "meta-llama/Llama-3.1-8B": _FOLDER / "rtx_pro_6000_without_llama.toml",
    "Qwen/Qwen3-32B": _FOLDER / "rtx_pro_6000_without_qwen.toml",
}
