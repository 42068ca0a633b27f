"""``servesim profile``: a device file from kernels measured on this machine."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from servesim.cli.flags import above_zero, at_least
from servesim.cli.render_profile import profile_bar, show_check, show_outcome, show_plan
from servesim.errors import UnknownNameError
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.unfuse import unfuse
from servesim.hardware.measure.plan import Limits
from servesim.models.load import load_graph

if TYPE_CHECKING:
    from servesim.hardware.measure.machine import Machine
    from servesim.hardware.measure.session import Order
    from servesim.hardware.measure.timer import Timer

HELP = "measure this machine's kernels and write a device file"

#: Models whose shapes are measured when none is named: small, and of several kinds.
DEFAULT_MODELS = (
    "Qwen/Qwen2.5-0.5B-Instruct",
    "HuggingFaceTB/SmolLM2-135M",
    "meta-llama/Llama-3.2-1B",
)
#: Operators whose weights take more of the memory than this are not measured by default.
_WEIGHT_SHARE = 0.05
#: Kernels that are measured again to check a device file, and the memory of a GPU that is planned
#: for.
_SAMPLE, _GPU_BYTES = 40, 80e9
#: Contexts are measured at every factor of four below the longest; there must be some.
_LEAST_CONTEXT = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    _add_kernels(parser)
    _add_limits(parser)
    _add_acts(parser)


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    """What is measured, where, and for how long."""
    parser.add_argument("--device", required=True, metavar="cpu|cuda", help="what to measure")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("measured"),
        metavar="DIR",
        help="where measurements are kept (default: measured)",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="model or folder whose shapes to measure; may be repeated",
    )
    parser.add_argument(
        "--unfused",
        action="store_true",
        help="the kernels that transformers runs instead of fused ones",
    )
    parser.add_argument(
        "--only", default="", metavar="KINDS", help="kinds of operator, e.g. gemm,attention,norm"
    )
    parser.add_argument(
        "--kernels", default="torch", metavar="torch|vllm", help="whose kernels (default: torch)"
    )
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="CPU threads")
    parser.add_argument(
        "--ranks",
        type=_ranks,
        default=(),
        metavar="N,...",
        help="measure collectives between so many processes, e.g. 2,4",
    )
    parser.add_argument(
        "--seconds",
        type=above_zero,
        default=600.0,
        metavar="S",
        help="time to measure (default: 600)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Sizes up to which kernels are measured."""
    limits = Limits()
    parser.add_argument(
        "--max-num-batched-tokens",
        type=at_least(1),
        default=limits.tokens,
        metavar="N",
        help="of a step",
    )
    parser.add_argument(
        "--max-num-seqs", type=at_least(1), default=limits.sequences, metavar="N", help="of a step"
    )
    parser.add_argument(
        "--max-model-len",
        type=at_least(_LEAST_CONTEXT),
        default=limits.context,
        metavar="N",
        help="of a sequence",
    )
    parser.add_argument(
        "--block-size",
        type=at_least(1),
        default=128,
        metavar="N",
        help="tokens of a block (default: 128)",
    )
    parser.add_argument(
        "--max-weight-mb",
        type=above_zero,
        default=None,
        metavar="X",
        help="leave out operators of larger weights (default: a twentieth of the memory)",
    )


def _add_acts(parser: argparse.ArgumentParser) -> None:
    """What is done beside measuring, and with which file."""
    parser.add_argument(
        "--device-file", type=Path, help="the file to write, or check (DIR/device.toml)"
    )
    parser.add_argument(
        "--plan", action="store_true", help="show what would be measured, and touch no device"
    )
    parser.add_argument(
        "--check",
        nargs="?",
        type=at_least(1),
        const=_SAMPLE,
        metavar="N",
        help=f"measure N kernels (default: {_SAMPLE}) of the device file again and show how far "
        "off it is",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, fit, write and report; or only plan, or check."""
    from servesim.hardware.measure.machine import describe, enough_devices, use_threads
    from servesim.hardware.measure.timer import timer_for

    if args.plan:
        return _plan(args)
    timer = timer_for(args.device)
    use_threads(args.threads)
    enough_devices(args.device, args.ranks, args.threads)
    machine = describe(args.device, args.threads)
    order = _order(args, machine.memory_bytes)
    act = _measure if args.check is None else _check
    return act(args, order, machine, timer)


def _measure(args: argparse.Namespace, order: Order, machine: Machine, timer: Timer) -> int:
    from servesim.hardware.measure.device_file import Origin
    from servesim.hardware.measure.machine import versions
    from servesim.hardware.measure.session import Listener, conclude, measure

    path = _device_file(args)
    with profile_bar(Console(file=sys.stderr)) as bar:
        tell = Listener(bar.measured, bar.fitting)
        outcome = measure(order, machine, timer, _graphs(args), args.out, tell)
        today = datetime.date.today().isoformat()
        origin = Origin(today, order.command, versions(), args.kernels)
        fitted = conclude(outcome, machine, origin, path, tell)
    show_outcome(Console(), outcome, fitted, path)
    return 130 if outcome.interrupted else 0


def _check(args: argparse.Namespace, order: Order, machine: Machine, timer: Timer) -> int:
    from servesim.hardware.measure.check import check
    from servesim.hardware.measure.session import Listener

    path = _device_file(args)
    with profile_bar(Console(file=sys.stderr)) as bar:
        tell = Listener(bar.measured, bar.fitting)
        found = check(order, machine, timer, _graphs(args), path, args.check, tell)
    show_check(Console(), found, path)
    return 0


def _plan(args: argparse.Namespace) -> int:
    from servesim.hardware.measure import collectives
    from servesim.hardware.measure.forecast import USUAL, affordable, forecast
    from servesim.hardware.measure.kernels import makers
    from servesim.hardware.measure.machine import describe
    from servesim.hardware.measure.plan import plan
    from servesim.hardware.measure.unmeasured import unmeasured

    if args.device not in USUAL:
        raise UnknownNameError("device to measure", args.device, USUAL)
    memory = _GPU_BYTES if args.device == "cuda" else describe("cpu", args.threads).memory_bytes
    order, speed = _order(args, memory), USUAL[args.device]
    graphs = _graphs(args)
    groups, known = plan(graphs, order.limits, order.only), makers(args.kernels)
    strange = [group for group in groups if group.family not in known]
    refused = {name: f"no kernel for {g.family}" for g in strange for name in g.works}
    lacking = unmeasured(graphs, order.limits, order.only, strange, refused)
    groups = [group for group in groups if group.family in known]
    kept = affordable(groups, speed, order.seconds)
    groups += collectives.groups(args.device, order.ranks, order.only)
    show_plan(Console(), forecast(groups, speed), lacking, kept, order.seconds)
    return 0


def _order(args: argparse.Namespace, memory_bytes: float) -> Order:
    from servesim.hardware.measure.session import Order

    return Order(
        args.device,
        args.kernels,
        args.seconds,
        _limits(args, memory_bytes),
        _known(tuple(kind for kind in args.only.split(",") if kind)),
        "servesim profile " + shlex.join(map(_plain, sys.argv[2:])),
        args.block_size,
        args.ranks,
        args.threads,
    )


def _device_file(args: argparse.Namespace) -> Path:
    from servesim.hardware.measure.session import DEVICE_FILE

    path: Path = args.device_file or args.out / DEVICE_FILE
    return path


def _limits(args: argparse.Namespace, memory_bytes: float) -> Limits:
    sizes = args.max_num_batched_tokens, args.max_num_seqs, args.max_model_len
    most = 1e6 * args.max_weight_mb if args.max_weight_mb else _WEIGHT_SHARE * memory_bytes
    return Limits(*sizes, weight_bytes=most)


def _graphs(args: argparse.Namespace) -> list[OpGraph]:
    graphs = [load_graph(model) for model in args.model or DEFAULT_MODELS]
    return [unfuse(graph) for graph in graphs] if args.unfused else graphs


def _known(only: tuple[str, ...]) -> tuple[str, ...]:
    """``only``, all of them kinds of operator.

    Raises:
        UnknownNameError: one is not.
    """
    from servesim.graph.ops import KINDS

    for kind in only:
        KINDS.get(kind)
    return only


def _ranks(text: str) -> tuple[int, ...]:
    """Numbers of processes, ascending.

    Raises:
        argparse.ArgumentTypeError: one is no whole number of at least two.
    """
    return tuple(sorted({at_least(2)(word.strip()) for word in text.split(",")}))


def _plain(word: str) -> str:
    """An argument as the device file shows it: of a path, its last part."""
    return Path(word).name if Path(word).is_absolute() else word
