"""``servesim validate live``: the real engine, recorded here and held against its simulation."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from servesim.cli.flags import above_zero, at_least, json_table
from servesim.errors import InputError
from servesim.hardware.load import load_device
from servesim.validation.live.architectures import ARCHITECTURES, Architecture, architecture
from servesim.validation.live.compare import compare_folder, no_recordings
from servesim.validation.live.engine import EngineSetup
from servesim.validation.live.host import fit_device_host
from servesim.validation.live.loads import LOADS, SHARED_PREFIX, load_called
from servesim.validation.live.record import ENGINE_OPTIONS, OPTIONS, Campaign, record
from servesim.validation.live.recorded import DEVICE, recordings

#: Whose kernels an engine runs.
_KERNELS = {"vllm": "vllm", "transformers": "torch"}
HELP = "run an installed engine, profile the device, and compare with the simulation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    known = ", ".join(a.name for a in ARCHITECTURES)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="compare what was recorded there, record nothing"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where recordings go (needed)")
    parser.add_argument(
        "--model",
        action="append",
        metavar="M",
        help=f"a model folder, or one of: {known} (all of these by default); may be repeated",
    )
    parser.add_argument(
        "--load",
        action="append",
        metavar="L",
        help=f"one of: {', '.join(load.name for load in LOADS)} (all by default), "
        f"{SHARED_PREFIX.name}",
    )
    parser.add_argument(
        "--engine", choices=tuple(ENGINE_OPTIONS), default="vllm", help="which engine"
    )
    parser.add_argument(
        "--engine-python",
        type=Path,
        default=Path(sys.executable),
        metavar="PATH",
        help="the interpreter that has it (default: this one)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what it runs on")
    parser.add_argument(
        "--threads", type=at_least(1), default=1, metavar="N", help="cores of a CPU engine"
    )
    parser.add_argument(
        "--repeats", type=at_least(1), default=3, metavar="N", help="equal runs of a load"
    )
    parser.add_argument(
        "--seconds", type=above_zero, default=20.0, metavar="S", help="of arrivals in each run"
    )
    parser.add_argument(
        "--options", type=json_table, default={}, metavar="JSON", help="engine options"
    )
    parser.add_argument(
        "--hardware",
        metavar="H",
        help=f"device to simulate (default: {DEVICE} beside the recordings, measured if missing)",
    )
    parser.add_argument(
        "--profile-seconds", type=above_zero, default=600.0, metavar="S", help="time to measure it"
    )


def run(args: argparse.Namespace) -> int:
    """Record unless there is data, profile unless there is a device, compare and print."""
    folder = args.data or args.out
    if folder is None:
        raise InputError("give --out DIR to record a live engine, or --data DIR to compare")
    if args.hardware is not None:
        load_device(args.hardware)  # raises here, not once everything is recorded
    if args.data is None:
        _record(args, folder)
    elif not recordings(folder):
        raise no_recordings(folder)
    if args.hardware is None and not (folder / DEVICE).exists():
        _profile(args, folder)
        _say(f"time of the host: {fit_device_host(folder) or 'not fitted'}")
    _print(folder, args.hardware)
    return 0


def _record(args: argparse.Namespace, out: Path) -> None:
    """Run every architecture that has no recordings yet."""
    campaign = Campaign(
        tuple(load_called(name) for name in args.load) if args.load else LOADS,
        args.repeats,
        args.seconds,
    )
    setup = EngineSetup(args.engine_python, args.device, args.threads, args.options, args.engine)
    architectures = _architectures(args.model)
    out.mkdir(parents=True, exist_ok=True)  # raises here, not once something is recorded
    for one in architectures:
        done = Counter(path.parts[-3:-1] for path in recordings(out))
        if all(done[one.name, load.name] >= args.repeats for load in campaign.loads):
            _say(f"{one.name}: recorded before")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            record(one, campaign, setup, Path(scratch), _say)
            shutil.copytree(Path(scratch), out, dirs_exist_ok=True)


def _architectures(names: list[str] | None) -> list[Architecture]:
    if not names:
        return list(ARCHITECTURES)
    return [_folder(Path(name)) if Path(name).is_dir() else architecture(name) for name in names]


def _folder(path: Path) -> Architecture:
    """A user's own model as an architecture."""
    if not (path / "config.json").exists():
        raise InputError(f"{path} has no config.json")
    return Architecture(path.resolve().name, False, place=path.resolve())


def _profile(args: argparse.Namespace, folder: Path) -> None:
    """Measure the device with the engine's own kernels, by the engine's interpreter."""
    models = sorted({path.parents[1] for path in recordings(folder)})
    command = [str(args.engine_python), "-m", "servesim", "profile", "--device", args.device]
    command += ["--kernels", _KERNELS[args.engine], "--threads", str(args.threads)]
    command += ["--seconds", str(args.profile_seconds), "--out", str(folder / "profile")]
    command += ["--max-num-batched-tokens", str(OPTIONS["max_num_batched_tokens"])]
    command += ["--max-num-seqs", str(OPTIONS["max_num_seqs"])]
    command += ["--max-model-len", str(OPTIONS["max_model_len"])]
    command += ["--block-size", str(OPTIONS["block_size"])]
    command += ["--device-file", str(folder / DEVICE)]
    if args.engine == "transformers":
        command.append("--unfused")
    for model in models:
        command += ["--model", str(model)]
    _say("profile: " + " ".join(command))
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise InputError(
            f"no device file: `{args.engine_python} -m servesim profile` ended with "
            f"{done.returncode}; servesim must be installed beside the engine, or give --hardware"
        )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _print(folder: Path, device: str | None) -> None:
    from servesim.cli.render import heading, indented, make_console
    from servesim.cli.render_live import live_remarks, live_tables

    console = make_console()
    comparison = compare_folder(folder, device)
    for title, table in live_tables(comparison):
        heading(console, title, comparison.name)
        indented(console, table)
    for remark in live_remarks(comparison):
        console.print(f"  {remark}", markup=False)
