"""Which form is fitted for which rows, and where the search starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from servesim.errors import UnknownNameError
from servesim.graph.work import GemmWork, MoeWork
from servesim.hardware.calibrate import attention, experts
from servesim.hardware.calibrate.fit import Parameter, Problem, Seconds, Surface
from servesim.hardware.calibrate.row import Row
from servesim.hardware.forms import gemm, moe
from servesim.hardware.forms.decode import DecodeForm
from servesim.hardware.forms.gemm import GemmForm
from servesim.hardware.forms.keys import form_kind
from servesim.hardware.forms.latent_decode import LatentDecodeForm
from servesim.hardware.forms.latent_prefill import LatentPrefillForm
from servesim.hardware.forms.machine import Machine
from servesim.hardware.forms.memory import MemoryForm
from servesim.hardware.forms.moe import MoeForm
from servesim.hardware.forms.prefill import PrefillForm
from servesim.hardware.forms.recurrent import RecurrentForm
from servesim.hardware.forms.surface import Knots

MachineFor = Callable[[str], Machine]

_BUILD: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "gemm": lambda c: GemmForm(**c),
    "decode": lambda c: DecodeForm(**c),
    "prefill": lambda c: PrefillForm(**c),
    "latent_decode": lambda c: LatentDecodeForm(**c),
    "latent_prefill": lambda c: LatentPrefillForm(**c),
    "memory": lambda c: MemoryForm(**c),
    "moe": lambda c: MoeForm(**c),
    "recurrent": lambda c: RecurrentForm(**c),
}

_MEMORY = Parameter(0.9, 0.3, 1.0)
_PARAMETERS: dict[str, dict[str, Parameter]] = {
    "gemm": {
        "launch": Parameter(2.5e-6, 1e-7, 2e-5),
        "memory": _MEMORY,
        "compute": Parameter(0.85, 0.2, 1.2),
        "tile": Parameter(5e-7, 1e-8, 1e-5),
        "split": Parameter(3e-6, 1e-7, 3e-5),
        "reduce": Parameter(2.0, 0.2, 30.0),
        "smoothing": Parameter(0.4, 0.02, 1.0),
        "repack": Parameter(2.0, 0.05, 50.0),
    },
    "memory": {
        "launch": Parameter(2e-6, 1e-8, 5e-5),
        "row": Parameter(1e-8, 1e-10, 1e-5),
        "traffic": Parameter(1.0, 0.3, 20.0),
        "cache": Parameter(3.0, 0.5, 10.0),
        "held": Parameter(0.45, 0.05, 1.0),
        "memory": _MEMORY,
        "core": Parameter(5.0, 0.5, 100.0),
    },
    "moe": experts.PARAMETERS,
    "recurrent": {
        "launch": Parameter(3e-6, 1e-7, 5e-5),
        "scan_launch": Parameter(2e-5, 1e-7, 3e-4),
        "token": Parameter(5e-8, 1e-10, 1e-5),
        "tile": Parameter(1e-6, 1e-9, 1e-4),
        "resident_tiles": Parameter(2.0, 0.5, 32.0),
        "compute": Parameter(0.1, 0.001, 1.0),
        "scan_traffic": Parameter(2.0, 0.2, 20.0),
        "traffic": Parameter(1.0, 0.2, 20.0),
        "memory": _MEMORY,
        "cache": Parameter(2.5, 0.5, 10.0),
        "held": Parameter(0.7, 0.02, 1.0),
        "update_held": Parameter(0.6, 0.02, 1.0),
        "spill": Parameter(3.0, 0.7, 12.0),
        "sharpness": Parameter(2.0, 1.0, 10.0),
        "start": Parameter(1e-6, 1e-10, 1e-4),
        "inner": Parameter(1e-7, 1e-11, 1e-5),
        "states": Parameter(1.5, 0.2, 4.0),
        "chunk_states": Parameter(1.0, 0.01, 6.0),
    },
}
#: Forms whose kernels start by quantising 16-bit inputs: libraries that do not split k, and some of
#: which choose tiles by rows alone (vLLM's CUTLASS kernels).
_QUANTISED = ("gemm.fp8", "gemm.nvfp4", "gemm.int8")
#: The form whose library pads rows by a kernel of its own.
_PADS = "gemm.fp8_block"
#: Look-ups: few of them wait for each other.
_SERIAL = {"serial": Parameter(3e-7, 1e-9, 1e-5)}
#: What kernels that move data share: the cache and memory they move it through. Sampling sorts.
_STREAMED = ("cache", "held", "memory")
_SAMPLER = "memory.sampler"
#: Rows a fit looks at, where fewer than the default tell as much in less time.
_MOST_ROWS = {"gemm": 1500, "moe": 1500}
_CHOICES: dict[str, dict[str, tuple[float | str, ...]]] = {
    "gemm": {"ragged": (0.0, 2.5)},
    "recurrent": {"chunk": (8.0, 64.0)},
}


def problem(form: str, machine: MachineFor, joint: bool = False) -> Problem:
    """The problem of fitting ``form`` (``family.format``).

    ``joint``: measured mixtures of prefills and decodes ran in one kernel.

    Raises:
        UnknownNameError: no such family.
    """
    family = _kind(form)
    seconds = predictor(form, machine)
    if family in attention.KINDS:
        parameters, choices, group, shared = attention.searched(form, family, joint)
        even = family == "decode"  # long ones decide the steps of large batches
        return Problem(seconds, parameters, choices, group=group, shared=shared, by_octave=even)
    choices = dict(_CHOICES.get(family, {}))
    parameters = dict(_PARAMETERS[family])
    if form.startswith(_QUANTISED):
        parameters["quantise"] = Parameter(1.0, 0.1, 20.0)
        choices["tall"] = (0.0, 128.0, 256.0)
        del parameters["split"], parameters["reduce"]
    if form == _PADS:
        parameters["pad"] = Parameter(1e-7, 1e-8, 2e-5)
    if form == "memory.embedding":
        parameters |= _SERIAL
    if family == "moe":
        choices["tiling"] = experts.tilings(form)
    most = _MOST_ROWS.get(family, 2000)
    asked = Problem(seconds, parameters, choices, most, _surfaces(family, machine))
    if family == "moe":
        return replace(asked, needs=experts.NEEDS, group="moe", shared=experts.shared(form))
    if family == "memory" and form != _SAMPLER:
        return replace(asked, group="memory", shared=_STREAMED)
    return asked


def _kind(form: str) -> str:
    """Name of the kind of form that is fitted for ``form`` (``family.format``).

    Raises:
        UnknownNameError: no such family.
    """
    family, _, key = form.partition(".")
    if family not in _BUILD:
        raise UnknownNameError("form", family, _BUILD)
    return form_kind(family, key)


def _surfaces(family: str, machine: MachineFor) -> dict[str, Surface]:
    """The surfaces of a form, with the sizes of a row that they are given over."""
    if family == "gemm":

        def products(row: Row) -> tuple[tuple[float, float], ...]:
            assert isinstance(row.work, GemmWork)
            return gemm.surface_sizes(row.work, machine(row.work.dtype).cores)

        knots = {"by_columns": gemm.COLUMNS, "by_rounds": gemm.ROUNDS}
        return _over(knots, products)
    if family == "moe":

        def dealt(row: Row) -> tuple[tuple[float, float], ...]:
            assert isinstance(row.work, MoeWork)
            return (moe.surface_sizes(row.work),)

        return _over({"by_tokens": moe.TOKENS}, dealt)
    return {}


def _over(
    knots: Mapping[str, Knots], sizes: Callable[[Row], tuple[tuple[float, float], ...]]
) -> dict[str, Surface]:
    def surface(place: int, at: Knots) -> Surface:
        return Surface(at.size, lambda row: at.weights(*sizes(row)[place]))

    return {name: surface(i, at) for i, (name, at) in enumerate(knots.items())}


def built_form(form: str, coefficients: Mapping[str, Any]) -> Any:
    """The form object that fitted ``coefficients`` stand for."""
    return _BUILD[_kind(form)](coefficients)


def predictor(form: str, machine: MachineFor) -> Seconds:
    """Time of a row under coefficients of ``form``."""
    family = form.split(".", maxsplit=1)[0]
    build = _BUILD[_kind(form)]

    @lru_cache(maxsize=4)
    def built(items: tuple[tuple[str, Any], ...]) -> Any:
        return build(dict(items))

    machines: dict[str, Machine] = {}

    def seconds(coefficients: Mapping[str, Any], row: Row) -> float:
        made = built(tuple(coefficients.items()))
        dtype = row.work.dtype
        if dtype not in machines:
            machines[dtype] = machine(dtype)
        return form_seconds(family, made, row, machines[dtype])

    return seconds


def form_seconds(family: str, form: Any, row: Row, machine: Machine) -> float:
    """Time of a row by a form object of ``family``, with what its benchmark left in the cache."""
    if family in ("gemm", "decode", "moe"):
        return float(form.seconds(row.work, machine, row.resident))
    return float(form.seconds(row.work, machine))
