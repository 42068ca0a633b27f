"""What was traced, where it runs and what fits, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from servesim.cli.render import columns, count, grid, heading, indented, percent
from servesim.graph.opgraph import Block, OpGraph
from servesim.graph.ops.experts import PooledExperts
from servesim.graph.summary import ONE_TOKEN, flops_per_token
from servesim.scenario.build import Deployment, Served
from servesim.scenario.sections import Plugin
from servesim.units import binary, gib, si

#: Characters and colours of the memory bar's parts.
_BAR = (("█", "blue"), ("▓", "cyan"), ("▒", "magenta"), ("░", "green"), ("·", "dim"))
_BAR_WIDTH = 72

#: Tokens of a step for which the load of experts is shown.
_LOAD_TOKENS = (64, 4096)


def print_deployment(console: Console, deployment: Deployment) -> None:
    """Everything that is settled before a run starts."""
    scenario = deployment.scenario
    console.print(Text.assemble((scenario.name, "bold"), "  ", (traffic(scenario.workload), "dim")))
    for graph in distinct_graphs(deployment):
        _print_graph(console, graph)
    for one in deployment.served:
        _print_placement(console, one)
    if len(deployment.engines) > 1:
        heading(console, "Router", deployment.scenario.router.kind)


def distinct_graphs(deployment: Deployment) -> list[OpGraph]:
    """The graphs of all instances, equal ones once."""
    found: list[OpGraph] = []
    for one in deployment.served:
        if one.graph not in found:
            found.append(one.graph)
    return found


def traffic(workload: Plugin) -> str:
    """A workload in a few words."""
    options = ", ".join(f"{name} {_option(value)}" for name, value in workload.options.items())
    return f"{workload.kind}: {options}" if options else workload.kind


def _option(value: object) -> str:
    if isinstance(value, dict):
        inner = dict(value)
        kind = inner.pop("kind", "")
        return f"{kind}({', '.join(f'{k}={v}' for k, v in inner.items())})"
    return str(value)


def model_facts(graph: OpGraph) -> list[tuple[str, str]]:
    """What a model is and takes."""
    ranks = graph.tensor_parallel_size
    share = " on each rank" if ranks > 1 else ""
    parameters = si(graph.parameters, "").rstrip().replace("G", "B")
    if any(op.kind == "experts" for op, _ in graph.weighted_ops()):
        parameters += f", {si(graph.active_parameters, '').replace('G', 'B')} active for a token"
    facts = [
        ("parameters", parameters),
        ("layers", f"{graph.num_layers}"),
        ("weights", f"{gib(graph.weight_bytes)}{share}"),
    ]
    if graph.kv_bytes_per_token:
        facts.append(("KV cache", f"{binary(graph.kv_bytes_per_token)} a token{share}"))
    if graph.state_bytes_per_sequence:
        facts.append(("state", f"{binary(graph.state_bytes_per_sequence)} a sequence{share}"))
    facts.append(("linear work", f"{si(flops_per_token(graph), 'FLOP')} a token{share}"))
    return facts


def placement_facts(one: Served) -> list[tuple[str, str]]:
    """Where a model runs."""
    device, ranks = one.device, one.own_devices // one.instance.count
    facts = [
        ("device", f"{ranks} x {device.title or device.name}{_split(one)}"),
        ("operators", _operators(one)),
        ("memory", f"{gib(device.memory.capacity_bytes)}, {si(device.memory.bandwidth, 'B/s')}"),
    ]
    if ranks > 1 and device.peer_link is not None:
        link = device.peer_link
        facts.append(("link", f"{link.name}, {si(link.bandwidth, 'B/s')}"))
    facts += _expert_facts(one)
    others = {
        name: other
        for stage in one.placements
        for name, other in stage.devices.items()
        if name != stage.default
    }
    counts = {name: f"{count} x " for name, (_, count) in zip(others, one.beside, strict=False)}
    facts += [
        ("beside it", f"{name}, {counts.get(name, '')}{other.title or other.name}")
        for name, other in others.items()
    ]
    if one.instance.hardware.profile is not None:
        facts.append(("profile", str(one.instance.hardware.profile)))
    if one.instance.hardware.collectives is not None:
        facts.append(("collectives", str(one.instance.hardware.collectives)))
    facts.append(
        ("limits", f"{one.config.max_num_seqs:,} sequences, "
         f"{one.config.max_num_batched_tokens:,} tokens a step, "
         f"context {one.config.max_model_len:,}")
    )  # fmt: skip
    return facts


def _expert_facts(one: Served) -> list[tuple[str, str]]:
    """How evenly the experts of a mixture are loaded, where devices hold different ones."""
    specs = [op.spec for op, _ in one.graph.weighted_ops() if isinstance(op.spec, PooledExperts)]
    loads = [(spec.held, spec.load) for spec in specs if spec.load and spec.parallel == "expert"]
    if not loads:
        return []
    held, load = loads[0]
    most = ", ".join(
        f"{load.imbalance(tokens):.2f} at {tokens:,} tokens" for tokens in _LOAD_TOKENS
    )
    return [("experts", f"{held} on each; the busiest gets, of the mean: {most}")]


def _split(one: Served) -> str:
    """How an engine is spread over its devices, where in several ways."""
    config = one.config
    degrees = {
        "data": config.data_parallel_size,
        "pipeline": config.pipeline_parallel_size,
        "tensor": config.tensor_parallel_size,
        "prompts": config.prefill_context_parallel_size,
        "cache": config.decode_context_parallel_size,
    }
    words = [f"{name} {size}" for name, size in degrees.items() if size > 1]
    if config.enable_expert_parallel:
        words.append(f"experts {config.data_parallel_size * config.tensor_parallel_size}")
    several = len(words) > 1 or degrees["tensor"] == 1
    return f", parallel in {', '.join(words)}" if words and several else ""


def _operators(one: Served) -> str:
    """What each device runs in a forward pass."""
    rows = [row for stage in one.placements for row in stage.describe()]
    ranks = " on each rank" if one.graph.tensor_parallel_size > 1 else ""
    where = [f"{row.operators:,} on {row.name}" for row in rows if row.operators]
    return f"{', '.join(where)} a step{ranks}"


def memory_parts(one: Served) -> list[tuple[str, float]]:
    """What each device's memory holds, in bytes; they add up to its capacity."""
    plan, encodes = one.memory, one.instance.role == "encode"
    parts = [
        ("weights", plan.weight_bytes),
        ("activation peak", plan.activation_peak_bytes),
        ("reserve", plan.reserve_bytes),
        ("embeddings" if encodes else "KV cache", plan.kv_cache_bytes * plan.kv_share),
    ]
    used = sum(size for _, size in parts)
    return [*parts, ("not used", max(one.device.memory.capacity_bytes - used, 0.0))]


def kv_capacity(one: Served) -> str:
    """The size of the KV cache, or of what an encode instance has for embeddings, in words."""
    blocks, size = one.engines[0].blocks, one.config.block_size
    if one.instance.role == "encode":
        return f"of {one.memory.kv_cache_tokens:,} tokens"
    if not one.graph.kv_bytes_per_token:
        return f"states of {blocks:,} sequences"
    return f"{blocks * size:,} tokens in {blocks:,} blocks of {size:,}"


def _print_graph(console: Console, graph: OpGraph) -> None:
    heading(console, "Model", f"{graph.model}, {graph.dtype}")
    indented(console, grid(model_facts(graph)))
    for note in graph.notes:
        indented(console, Text(note, style="dim"))
    table = columns("operator", "kind", "shape", "weights", "FLOP a token", text=3)
    place = "before the layers"
    for block in graph.blocks:
        if block.layers:
            title, place = count(block.count, "layer"), "after the layers"
        else:
            title = place
        table.add_row(Text(title, style="dim italic"))
        for row in operator_rows(block):
            table.add_row(*row)
    console.print()
    indented(console, table)


def operator_rows(block: Block) -> list[tuple[str, str, str, str, str]]:
    """Name, kind, shape, weights and FLOP for one token of each operator of a block."""
    rows = []
    for op in block.ops:
        flops = op.work(ONE_TOKEN).flops if op.runs(ONE_TOKEN) else 0.0
        shape = "x".join(map(str, op.spec.shape))
        weights = binary(op.spec.weight_bytes) if op.spec.weight_bytes else ""
        rows.append((op.name, op.kind, shape, weights, si(flops, "") if flops else ""))
    return rows


def _print_placement(console: Console, one: Served) -> None:
    many = one.instance.count
    heading(
        console, "Placement", f"{one.instance.name} x {many}" if many > 1 else one.instance.name
    )
    indented(console, grid(placement_facts(one)))
    console.print()
    parts = memory_parts(one)
    indented(console, _bar([size for _, size in parts]))
    table, total = columns("", "", "", "", text=1), sum(size for _, size in parts)
    table.show_header = False
    table.columns[0].no_wrap = True
    for (mark, colour), (name, size) in zip(_BAR, parts, strict=True):
        label = Text.assemble((mark, colour), f" {name}")
        remark = kv_capacity(one) if name in ("KV cache", "embeddings") else ""
        table.add_row(label, gib(size), percent(size / total), Text(remark, style="dim"))
    indented(console, table)


def _bar(sizes: list[float]) -> Text:
    """A bar divided in proportion."""
    total, bar, done, drawn = sum(sizes), Text(), 0.0, 0
    for size, (mark, colour) in zip(sizes, _BAR, strict=True):
        done += size
        upto = round(_BAR_WIDTH * done / total)
        bar.append(mark * (upto - drawn), colour)
        drawn = upto
    return bar
