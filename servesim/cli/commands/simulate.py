"""``servesim simulate``: a scenario from a file and flags, its results as tables and files."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servesim.cli.flags import add_flags, given
from servesim.errors import InputError
from servesim.runtime.config import EngineConfig

if TYPE_CHECKING:
    from servesim.scenario import Result, Scenario

HELP = "simulate serving a model: latency, throughput, memory"

_FILES = (".jsonl", ".jsonl.gz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; each stands for ``section.key`` of a scenario file."""
    parser.usage = "servesim simulate [FILE] [options]"
    parser.add_argument("file", nargs="?", metavar="FILE", help="scenario file (TOML)")
    parser.add_argument("--scenario", metavar="FILE", help="the same")
    group = parser.add_argument_group("what is simulated")
    for flag, dest, metavar, text in (
        ("--model", "model.id", "ID", "Hugging Face id, folder, or config.json"),
        ("--dtype", "model.dtype", "D", "number format of weights and activations"),
        ("--quantization", "model.quantization", "Q", "scheme of the weights"),
        ("--hardware", "hardware.device", "NAME", "device, or a device file"),
        ("--profile", "hardware.profile", "DIR", "measured layer latencies, or kernel tables"),
        ("--profile-model", "hardware.profile_model", "ID", "whose layer latencies, if another's"),
        ("--collectives", "hardware.collectives", "PATH", "measured collectives (nccl-tests)"),
        ("--workload", "workload.kind", "KIND|FILE", "kind of traffic, or a .jsonl trace"),
        ("--prompt-tokens", "workload.prompt_tokens", "N|DIST", "e.g. lognormal:mean=500,sigma=1"),
        ("--output-tokens", "workload.output_tokens", "N|DIST", "lengths of the answers"),
        ("--router", "router.kind", "NAME", "which instance a request goes to"),
    ):
        _flag(group, flag, dest, metavar, text, str)
    _flag(group, "--rate", "workload.rate", "X", "requests per second", float)
    for flag, dest, text in (
        ("--concurrency", "workload.concurrency", "requests in the system: a closed loop"),
        ("--max-concurrency", "workload.max_concurrency", "no more unfinished, at any rate"),
        ("--num-requests", "workload.num_requests", "how many"),
        ("--seed", "workload.seed", "fixes everything random"),
    ):
        _flag(group, flag, dest, "N", text, int)
    group.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="any other key of a scenario file",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    _flag(output, "--output-dir", "output.folder", "DIR", "default: out/<scenario>", str)
    _flag(output, "--report", "output.report", "FILE.html", "write an HTML report", str)
    _flag(output, "--trace", "output.trace", "FILE.json", "write a Perfetto trace", str)
    _flag(output, "--power", "output.power", "FILE.csv", "write power over time", str)
    output.add_argument("--json", action="store_true", help="print the summary as JSON")
    output.add_argument("--quiet", action="store_true", help="print nothing")
    add_flags(parser, EngineConfig, "engine", "engine options (vLLM's names)")


def run(args: argparse.Namespace) -> int:
    """Build, simulate, write, print."""
    from servesim.cli.progress import progress_bar
    from servesim.cli.render import make_console
    from servesim.cli.render_deployment import print_deployment
    from servesim.cli.render_result import print_result
    from servesim.scenario import build
    from servesim.scenario.run import Simulation

    scenario = _scenario(args)
    folder = scenario.output.folder or Path("out") / scenario.name
    _require_writable(scenario, folder)
    console = make_console()
    console.quiet = args.json or args.quiet
    with console.status("tracing the model"):
        deployment = build(scenario)
        simulation = Simulation(deployment)
    print_deployment(console, deployment)
    with progress_bar(console) as progress:
        result = simulation.run(progress)
    files = _write(result, folder)
    print_result(console, result, files)
    if args.json:
        _print_json(result)
    return 0


def _flag(
    group: argparse._ArgumentGroup, flag: str, dest: str, metavar: str, text: str, kind: type
) -> None:
    group.add_argument(
        flag, dest=dest, metavar=metavar, help=text, type=kind, default=argparse.SUPPRESS
    )


def _scenario(args: argparse.Namespace) -> Scenario:
    from servesim.scenario import Scenario

    if args.file and args.scenario:
        raise InputError(f"two scenario files: {args.file} and {args.scenario}")
    flags = given(args)
    workload = flags.get("workload", {})
    kind = str(workload.get("kind", ""))
    if kind.endswith(_FILES):
        workload.update(kind="jsonl", path=kind)
    elif Path(kind).suffix and Path(kind).is_file():
        raise InputError(
            f"--workload {kind} is a file of some other kind than .jsonl: name the kind, as in"
            f" --workload azure --set workload.path={kind}"
        )
    for text in args.set:
        section, key, value = _assignment(text)
        flags.setdefault(section, {})[key] = value
    path = args.file or args.scenario
    if not path and "concurrency" in workload:
        workload.setdefault("kind", "closed_loop")
    return Scenario.load(path, flags) if path else Scenario.of(**flags)


def _assignment(text: str) -> tuple[str, str, Any]:
    """``section.key=value``, the value as TOML writes it, or text."""
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise InputError(f"--set {text!r} is not SECTION.KEY=VALUE")
    try:
        return section, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value.strip()


def _require_writable(scenario: Scenario, folder: Path) -> None:
    from servesim.scenario.files import require_writable, require_writable_file

    require_writable(folder)
    output = scenario.output
    files = [one for one in (output.report, output.trace, output.power) if one is not None]
    for number, file in enumerate(files):
        require_writable_file(file)
        if file in files[:number]:
            raise InputError(f"two outputs go to {file}")


def _write(result: Result, folder: Path) -> tuple[Path, ...]:
    from servesim.cli.render_report import report_html
    from servesim.cli.render_trace import trace_lines
    from servesim.scenario.energy import power_lines
    from servesim.scenario.files import write_results, write_text

    files = write_results(result, folder)
    output = result.scenario.output
    if output.report is not None:
        files += (write_text([report_html(result)], output.report),)
    if output.trace is not None:
        files += (write_text(trace_lines(result.records), output.trace),)
    if output.power is not None:
        lines = power_lines(result.energy, result.scenario.power.resolution_s)
        files += (write_text(lines, output.power),)
    return files


def _print_json(result: Result) -> None:
    from servesim.scenario.summary import summarise

    json.dump({**summarise(result), "wall_s": result.wall_s}, sys.stdout, indent=1)
    sys.stdout.write("\n")
