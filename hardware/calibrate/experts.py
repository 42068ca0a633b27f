"""What a fit of routed experts searches, by the kernels that run them."""

from __future__ import annotations

from collections.abc import Sequence

from servesim.hardware.calibrate.fit import Parameter

#: Coefficients of all kernels.
PARAMETERS: dict[str, Parameter] = {
    "launch": Parameter(2e-5, 1e-6, 3e-4),
    "pair": Parameter(3e-9, 1e-11, 1e-6),
    "memory": Parameter(0.8, 0.1, 1.0),
    "compute": Parameter(0.6, 0.02, 1.2),
    "feed": Parameter(4.0, 0.05, 50.0),
    "tile": Parameter(1e-6, 1e-8, 2e-5),
    "expert": Parameter(2e-8, 1e-10, 1e-6),
    "sharpness": Parameter(2.0, 1.0, 10.0),
    "smoothing": Parameter(0.5, 0.02, 1.0),
}
#: Of kernels that write zeros for experts of other ranks, and load inputs beyond a cache again.
_DENSE = {
    "elsewhere": Parameter(5e-9, 1e-11, 1e-7),
    "spill": Parameter(0.5, 1e-3, 10.0),
}
#: Of Marlin kernels, which skip them.
_MARLIN = {
    "least": Parameter(32.0, 8.0, 256.0),
    "narrow": Parameter(0.3, 0.05, 1.0),
    "crowd": Parameter(0.1, 0.001, 1.0),
}
#: Of kernels whose library has settings tuned for some sizes.
TUNED = {"tuned": Parameter(0.7, 0.3, 1.5)}
_FIXED = ("fixed_32", "fixed_64", "fixed_128")
#: What may choose the tiles, by the format of weights: vLLM runs INT4 weights with activations of
#: 16 bits in Marlin kernels on all GPUs, others in those of one of several libraries.
_TILINGS = {
    "moe.fp8_block": ("triton_block", *_FIXED),
    "moe.int4": ("marlin",),
    "moe.mxfp4": ("marlin", "trtllm", *_FIXED),
    "moe.nvfp4": ("trtllm", *_FIXED),
}
_OTHER_TILINGS = ("triton", "triton_early", *_FIXED)


def tilings(form: str) -> tuple[str, ...]:
    """The tilings that are tried for ``form`` (``moe.format``)."""
    return _TILINGS.get(form, _OTHER_TILINGS)


def parameters_of(tried: Sequence[str]) -> dict[str, Parameter]:
    """What the tilings ``tried`` need beside ``PARAMETERS``."""
    return dict(_MARLIN if "marlin" in tried else _DENSE)
