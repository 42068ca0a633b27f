"""What a fit of attention searches, by the kernels that run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from servesim.hardware.calibrate.fit import Parameter

_PARAMETERS: dict[str, dict[str, Parameter]] = {
    "decode": {
        "launch": Parameter(7e-6, 5e-7, 5e-5),
        "batch": Parameter(1e-6, 1e-8, 2e-5),
        "combine": Parameter(2e-6, 1e-8, 2e-5),
        "join": Parameter(3e-8, 1e-9, 1e-6),
        "partial": Parameter(1e-8, 1e-10, 1e-6),
        "tile": Parameter(2e-6, 1e-7, 2e-5),
        "stream": Parameter(4.0, 0.5, 50.0),
        "compute": Parameter(0.5, 0.05, 1.2),
        "resident_tiles": Parameter(1.0, 0.5, 4.0),
        "memory": Parameter(0.9, 0.3, 1.0),
        "ramp": Parameter(1e-5, 1e-8, 1e-4),
        "cache": Parameter(2.5, 0.5, 10.0),
        "sharpness": Parameter(2.5, 1.0, 10.0),
        "smoothing": Parameter(0.4, 0.02, 1.0),
        "skew": Parameter(0.15, 0.01, 1.0),
        "sequence": Parameter(5e-9, 1e-11, 1e-7),
        "query": Parameter(3e-8, 1e-10, 1e-6),
        "window": Parameter(1e-6, 1e-9, 1e-5),
    },
    "prefill": {
        "launch": Parameter(4e-6, 5e-7, 5e-5),
        "tile": Parameter(3e-6, 1e-7, 2e-5),
        "compute": Parameter(0.65, 0.1, 1.5),
        "softmax": Parameter(30.0, 1.0, 300.0),
        "tail": Parameter(0.6, 0.05, 2.0),
        "smoothing": Parameter(0.25, 0.02, 1.0),
        "memory": Parameter(0.85, 0.6, 1.0),
        "sharpness": Parameter(2.5, 1.0, 10.0),
        "cache": Parameter(2.0, 0.5, 10.0),
        "held": Parameter(0.6, 0.05, 1.0),
        "passes": Parameter(1.0, 0.02, 3.0),
        "store": Parameter(3e-7, 1e-10, 5e-6),
        "group": Parameter(3e-7, 1e-9, 5e-6),
        "gather": Parameter(1e-8, 1e-11, 1e-7),
    },
    "latent_decode": {
        "launch": Parameter(3e-5, 1e-6, 1e-4),
        "doubling": Parameter(4e-6, 1e-8, 2e-5),
        "query": Parameter(5e-8, 1e-10, 1e-6),
        "combine": Parameter(5e-6, 1e-8, 3e-5),
        "tile": Parameter(2e-6, 1e-8, 2e-5),
        "compute": Parameter(0.4, 0.02, 1.2),
        "memory": Parameter(0.9, 0.3, 1.0),
        "sharpness": Parameter(3.0, 1.0, 10.0),
    },
    "latent_prefill": {
        "launch": Parameter(4e-5, 1e-6, 1e-4),
        "token": Parameter(1e-6, 1e-9, 1e-4),
        "query": Parameter(2e-7, 1e-9, 1e-5),
        "tile": Parameter(3e-6, 1e-7, 2e-5),
        "compute": Parameter(0.7, 0.1, 1.5),
        "tail": Parameter(0.6, 0.05, 2.0),
        "smoothing": Parameter(0.25, 0.02, 1.0),
    },
}
_CHOICES: dict[str, dict[str, tuple[float, ...]]] = {
    "decode": {"block": (64.0, 128.0, 256.0)},
    "latent_decode": {
        "rows": (16.0, 64.0, 128.0),
        "block": (64.0, 256.0),
        "splits": (0.0, 4.0),
        "most_splits": (0.0, 32.0),
        "smoothing": (0.0, 1.0),
        "apart": (0.0, 1.0),
    },
    "latent_prefill": {"rows": (64.0, 128.0), "absorbed": (0.0, 512.0)},
    "prefill": {"rows": (64.0, 128.0, 192.0, 256.0), "packed": (0.0, 1.0)},
}
#: Kinds of forms of attention.
KINDS = tuple(_PARAMETERS)
#: Kernels: one for prefills and decodes, those made for most head widths, and what runs the rest.
_ONE_KERNEL, _APART_KERNEL, _OTHER_KERNEL = "prefills and decodes", "apart", "other widths"
#: FlashAttention 2 with a paged cache: 64 queries of a head against 256 keys, fewer of wide heads
#: (csrc/flash_attn/src/flash_fwd_launch_template.h, run_mha_fwd_splitkv_dispatch).
_FLASH_2_ROOM = {"room": (16384.0,)}
#: Head widths that FlashInfer and FlashAttention 3 are both made for; a kernel in Triton has the
#: others.
_COMMON_WIDTHS = ("64", "128", "256")
#: Coefficients that differ by format and head width within a kernel. Of one that does prefills and
#: decodes none do, but for what follows from the width.
_OWN = {
    "decode": ("launch", "tile", "stream", "compute", "memory", "cache", "sharpness", "window"),
    "prefill": ("launch", "tile", "compute", "tail", "sharpness", "rows"),
    "latent_decode": ("launch", "query", "combine", "most_splits"),
    "latent_prefill": ("launch", "token", "compute"),
}
#: Prefills and decodes of one kernel, and of kernels of their own.
_JOINT: dict[str, dict[str, tuple[float, ...]]] = {
    "prefill": {"joint": (1.0,), "columns": (256.0,), "rows": (64.0,), "packed": (0.0,)},
    # Resident tiles are not searched, as time jumps where a round more starts. Kernels of a later
    # generation stay on their core and deal tiles out evenly.
    "decode": {"resident_tiles": (1.0, 2.0, 4.0), "block": (256.0,)},
}
_APART: dict[str, dict[str, tuple[float, ...]]] = {
    "prefill": {"least_group": (2.0, 4.0), "most_group": (16.0, 64.0), "halves": (0.0, 1.0)},
    "decode": {"most_splits": (0.0, 32.0)},
}
#: What swapping heads and groups takes, which FlashAttention 2 does in kernels of its own.
_SWAP = {"doubling": Parameter(1e-7, 1e-10, 2e-6), "swap": Parameter(3e-8, 1e-10, 1e-6)}
_EMPTY = {"empty": Parameter(1e-7, 1e-10, 3e-6)}
_SCATTER = {"scatter": Parameter(1e-8, 1e-11, 1e-7)}
#: What 8-bit queries take beside, where heads do not fill a tile.
_PADDED = {"pad_launch": Parameter(3e-6, 1e-8, 3e-5), "pad": Parameter(5e-8, 1e-10, 1e-6)}


class Searched(NamedTuple):
    """What is searched for a form, and what of it all forms of its ``group`` share."""

    parameters: Mapping[str, Parameter]
    choices: Mapping[str, Sequence[float | str]]
    group: str
    shared: Sequence[str]


def searched(form: str, kind: str, joint: bool) -> Searched:
    """What is searched for ``form`` (``family.key``) of one of ``KINDS``.

    ``joint``: one kernel runs prefills and decodes.
    """
    kernel = _kernel(form, joint)
    parameters, choices = dict(_PARAMETERS[kind]), dict(_CHOICES[kind])
    if kind in _JOINT:
        choices |= (_JOINT if joint else _APART)[kind] | (_FLASH_2_ROOM if joint else {})
    if kind == "prefill":
        parameters |= _EMPTY if joint else _SCATTER
    if kind == "decode" and joint:
        parameters |= _SWAP
    if kind == "decode" and kernel == _OTHER_KERNEL:
        choices["segments"] = (16.0,)
    if kind == "latent_decode" and ".fp8" in form:
        parameters |= _PADDED
    own = () if kernel == _ONE_KERNEL else _OWN[kind]
    shared = [name for name in (*parameters, *choices) if name not in own]
    left = {name: p for name, p in parameters.items() if name not in choices}
    return Searched(left, choices, f"{kind}, {kernel}", shared)


def _kernel(form: str, joint: bool) -> str:
    if joint:
        return _ONE_KERNEL
    width = form.rpartition("_")[2]
    return _APART_KERNEL if width in _COMMON_WIDTHS else _OTHER_KERNEL
