"""What a fit of routed experts searches, by the kernels that run them."""

from __future__ import annotations

from servesim.hardware.calibrate.fit import Parameter

_FIXED = ("fixed_32", "fixed_64", "fixed_128")
_TRITON = ("triton", "triton_block", "triton_early")
#: Coefficients of all kernels, then those that only some have.
PARAMETERS: dict[str, Parameter] = {
    "launch": Parameter(2e-5, 1e-6, 3e-4),
    "pair": Parameter(3e-9, 1e-11, 1e-6),
    "memory": Parameter(0.8, 0.1, 1.0),
    "compute": Parameter(0.6, 0.02, 1.0),
    "feed": Parameter(4.0, 0.05, 50.0),
    "tile": Parameter(1e-6, 1e-8, 2e-5),
    "sharpness": Parameter(2.0, 1.0, 10.0),
    "store": Parameter(1e-8, 1e-11, 1e-6),
    "expert": Parameter(2e-8, 1e-10, 1e-6),
    "alone": Parameter(1.2, 1.0, 8.0),
    "smoothing": Parameter(0.5, 0.02, 1.0),
    "spill": Parameter(0.5, 1e-3, 10.0),
    "least": Parameter(32.0, 8.0, 256.0),
    "narrow": Parameter(0.3, 0.05, 1.0),
    "crowd": Parameter(0.1, 0.001, 1.0),
}
#: The tilings whose kernels have a coefficient. Tiles of one size need no time for storing rows
#: beside that of a tile; small ones lie on a core together and load inputs beyond a cache again.
NEEDS = {
    "store": (*_TRITON, "trtllm", "trtllm_32"),
    "expert": _FIXED,
    "alone": _FIXED,
    "smoothing": ("triton_early",),
    "spill": ("triton_early",),
    "least": ("marlin", "trtllm_32"),
    "narrow": ("marlin",),
    "crowd": ("marlin",),
    "tuned": _TRITON,
}
#: Of kernels whose library has settings tuned for some sizes.
TUNED = {"tuned": Parameter(0.7, 0.3, 1.5)}
#: What is the same for all formats of a device: the surface for all kernels, others for those that
#: multiply in the format of the weights. Marlin kernels unpack theirs.
_SHARED = ("memory", "tile", "store", "by_tokens")
_SHARED_BY_MARLIN = ("by_tokens",)
#: What may choose the tiles, by the format of weights: vLLM runs INT4 weights with activations of
#: 16 bits in Marlin kernels on all GPUs, others in those of one of several libraries.
_TILINGS = {
    "moe.fp8_block": ("triton_block", *_FIXED),
    "moe.int4": ("marlin",),
    "moe.mxfp4": ("marlin", "trtllm", "trtllm_32", *_FIXED),
    "moe.nvfp4": ("trtllm", *_FIXED),
}
_OTHER_TILINGS = ("triton", "triton_early", *_FIXED)


def tilings(form: str) -> tuple[str, ...]:
    """The tilings that are tried for ``form`` (``moe.format``)."""
    return _TILINGS.get(form, _OTHER_TILINGS)


def shared(form: str) -> tuple[str, ...]:
    """Coefficients that ``form`` (``moe.format``) shares with those of other formats."""
    return _SHARED_BY_MARLIN if "marlin" in tilings(form) else _SHARED
