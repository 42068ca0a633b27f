"""``servesim memory MODEL --hardware H``: what fits, as vLLM would find at start-up."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from servesim.cli.flags import add_flags, given
from servesim.hardware.device import Device
from servesim.hardware.load import load_device
from servesim.models.config import resolve
from servesim.models.load import load_graph
from servesim.models.memory import MemoryOptions, MemoryPlan, plan_memory
from servesim.models.quantisation import quantise
from servesim.runtime.config import EngineConfig
from servesim.scenario.graphs import resident_graph, served_graph
from servesim.scenario.sections import ModelSection
from servesim.scenario.speculation import drafter_of
from servesim.units import gib

HELP = "weights, activations and KV cache of a model on a device"


@dataclasses.dataclass(frozen=True)
class _MemoryFlags:
    """Engine options that only memory depends on.

    Attributes:
        mamba_ssm_cache_dtype: number format of recurrent states; auto is the config's, or else
            the model's own.
        estimate_cuda_graphs: take the CUDA graphs out of the memory before the KV cache, as later
            versions of vLLM do.
    """

    mamba_ssm_cache_dtype: str = "auto"
    estimate_cuda_graphs: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", help="built-in Hugging Face id, folder, or config.json")
    parser.add_argument("--hardware", required=True, metavar="H", help="device name or TOML file")
    parser.add_argument("--dtype", metavar="D", help="bf16, fp16 or fp32 (default: checkpoint's)")
    parser.add_argument(
        "--quantization",
        metavar="Q",
        help="quantise while loading: fp8, experts_int8 or bitsandbytes (default: checkpoint's)",
    )
    add_flags(parser, EngineConfig, "engine", "engine options, under vLLM's names")
    add_flags(parser, _MemoryFlags, "engine", "more engine options")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the plan of one device."""
    device = load_device(args.hardware)
    config = resolve(args.model)
    engine = given(args).get("engine", {})
    options = _engine_config(engine)
    graph = load_graph(
        args.model,
        tensor_parallel_size=options.tensor_parallel_size,
        dtype=args.dtype,
        enable_expert_parallel=options.enable_expert_parallel,
    )
    formats = [engine.get(name, "auto") for name in ("kv_cache_dtype", "mamba_ssm_cache_dtype")]
    graph = quantise(graph, config, args.quantization, *formats)
    graph = served_graph(graph, ModelSection(args.model, args.dtype), options, device)
    graph = resident_graph(graph, drafter_of(options, graph, config))
    limits = _memory_options(engine, device)
    plan = plan_memory(graph, device.memory.capacity_bytes, limits, config)
    if args.json:
        json.dump(_as_json(plan), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print_table(config.name, device, limits, plan)
    return 0


def _memory_options(engine: dict[str, Any], device: Device) -> MemoryOptions:
    """The engine's options that memory depends on, vLLM's limits, and the device's SMs."""
    names = {field.name for field in dataclasses.fields(MemoryOptions)}
    chosen = {name: value for name, value in engine.items() if name in names}
    limits = _engine_config(engine).on(device.memory.capacity_bytes, device.name).limits._asdict()
    return MemoryOptions(**{**chosen, **limits}, compute_units=device.cores)


def _engine_config(engine: dict[str, Any]) -> EngineConfig:
    known = {field.name for field in dataclasses.fields(EngineConfig)}
    return EngineConfig.from_options({k: v for k, v in engine.items() if k in known})


def _as_json(plan: MemoryPlan) -> dict[str, Any]:
    """The plan with whole bytes."""
    values = dataclasses.asdict(plan)
    return {k: round(v) if k.endswith("_bytes") else v for k, v in values.items()}


def _print_table(name: str, device: Device, options: MemoryOptions, plan: MemoryPlan) -> None:
    from rich.console import Console
    from rich.table import Table

    capacity = device.memory.capacity_bytes
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    share = f"{options.gpu_memory_utilization:.0%}"
    table.add_row("device memory", gib(capacity))
    table.add_row(f"  the engine's share, {share}", gib(capacity * options.gpu_memory_utilization))
    table.add_row("weights", gib(plan.weight_bytes))
    table.add_row("activation peak", gib(plan.activation_peak_bytes))
    table.add_row("reserve (libraries, collectives)", gib(plan.reserve_bytes))
    table.add_row("KV cache", gib(plan.kv_cache_bytes))
    table.add_row("  blocks", f"{plan.kv_cache_blocks:,}")
    table.add_row(f"  tokens, {plan.block_size} a block", f"{plan.kv_cache_tokens:,}")
    table.add_row(f"  sequences of {plan.max_model_len:,} tokens", f"{plan.max_concurrency:.1f}")
    table.add_row("CUDA graphs", gib(plan.cuda_graph_bytes))
    console = Console()
    console.print(f"[bold]{name}[/bold] on each {device.title or device.name}")
    console.print(table)
