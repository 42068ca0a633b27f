"""What fits: weights, activation peak, reserves and the KV cache of one engine on its devices.

Follows what vLLM does at start-up (v0.19, ``Worker.determine_available_memory``): of the share of
the memory it may use, weights, the activation peak of a profiling step and what other libraries
took are subtracted; the KV cache gets the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from servesim.errors import CapacityError, InputError
from servesim.graph.dtypes import bytes_per_element, kv_cache_name
from servesim.graph.kv_layout import KvGroup, KvLayout, lay_out
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.quantise import with_kv_cache
from servesim.graph.passes.stage import split_stages
from servesim.models.activation import LargestStep, activation_peak
from servesim.models.config import ModelConfig
from servesim.models.towers import rotary_bytes, vision_tower
from servesim.models.weights import loaded_bytes
from servesim.units import GIB, gib
from servesim.vllm_defaults import FITTING, capture_sizes, step_limits

# Measured on H100 under vLLM 0.19 (what it reports as non-torch memory of the profiling step).
#: Kernel images and library handles loaded by the first step.
LIBRARY_BYTES = 0.25 * GIB
#: The same with a pipeline, whose communicator has loaded most of them before the measurement.
PIPELINE_LIBRARY_BYTES = 0.07 * GIB
#: Buffers of the first collectives of a tensor-parallel group, and what each further rank adds.
COLLECTIVE_BYTES = 1.79 * GIB
COLLECTIVE_BYTES_PER_PEER = 0.03 * GIB
#: A captured CUDA graph, by layer, and the memory that all of them share.
GRAPH_BYTES_PER_LAYER = 200 * 2**10
GRAPH_POOL_BYTES = 0.25 * GIB

_COUNTS = (
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_model_len",
    "block_size",
    "num_gpu_blocks_override",
    "pipeline_parallel_size",
)


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """The engine options that memory depends on, under vLLM's names.

    Attributes:
        max_num_batched_tokens, max_num_seqs: None for vLLM's defaults, which depend on the
            device memory.
        max_model_len: None for the model's own limit, -1 for as much of it as the KV cache holds.
        num_gpu_blocks_override: KV blocks, whatever the memory would hold.
        kv_cache_dtype: number format of the KV cache; ``auto`` leaves the graph's.
        enforce_eager: no CUDA graphs.
        estimate_cuda_graphs: take the CUDA graphs out of the memory before the KV cache, as vLLM
            can since 0.18 and does by default in later versions.
        cpu_offload_gb: GiB of weights that stay in host memory.
        compute_units: SMs of the device.
    """

    gpu_memory_utilization: float = 0.9
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    max_model_len: int | None = None
    block_size: int = 16
    num_gpu_blocks_override: int | None = None
    kv_cache_dtype: str = "auto"
    pipeline_parallel_size: int = 1
    enforce_eager: bool = False
    estimate_cuda_graphs: bool = False
    cpu_offload_gb: float = 0.0
    compute_units: int = 132

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InputError(
                f"gpu_memory_utilization must be in (0, 1], not {self.gpu_memory_utilization}"
            )
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1 and (name, value) != ("max_model_len", FITTING):
                raise InputError(f"{name} must be at least 1, not {value}")
        if self.kv_cache_dtype != "auto":
            kv_cache_name(self.kv_cache_dtype)

    def largest_step(self, memory_bytes: float, max_model_len: int) -> LargestStep:
        """The largest step; vLLM's defaults where the options do not say."""
        default = step_limits(memory_bytes)
        sequences = self.max_num_seqs or default.max_num_seqs
        tokens = self.max_num_batched_tokens
        if tokens is None:
            most = max(default.max_num_batched_tokens, sequences)
            tokens = min(most, sequences * max_model_len)
        return LargestStep(tokens, min(sequences, tokens), max_model_len, self.block_size)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on each device, and the KV cache they leave.

    Attributes:
        weight_bytes: weights, rotary tables and vision towers.
        activation_peak_bytes: of the largest step.
        reserve_bytes: libraries and collectives, and CUDA graphs if they are counted.
        cuda_graph_bytes: captured CUDA graphs; outside the engine's share unless counted.
        kv_cache_bytes: left for the KV cache.
        kv_cache_blocks: blocks of all layer groups together.
        kv_cache_tokens: tokens that fit, as vLLM reports them.
        max_model_len: longest sequence the engine takes.
        max_concurrency: sequences of that length that fit at once.
        block_size: tokens of a block (more than asked for beside recurrent states).
        kv_groups: layers by what they keep, each with blocks of its own.
        kv_share: of the KV cache, on the device itself; the rest is on others beside it.
    """

    weight_bytes: float
    activation_peak_bytes: float
    reserve_bytes: float
    cuda_graph_bytes: float
    kv_cache_bytes: float
    kv_cache_blocks: int
    kv_cache_tokens: int
    max_model_len: int
    max_concurrency: float
    block_size: int
    kv_groups: tuple[KvGroup, ...] = ()
    kv_share: float = 1.0


def plan_memory(
    graph: OpGraph,
    memory_bytes: float,
    options: MemoryOptions | None = None,
    config: ModelConfig | None = None,
    stage: int | None = None,
) -> MemoryPlan:
    """What an engine that serves ``graph`` on devices of ``memory_bytes`` keeps in them.

    Args:
        graph: of one tensor-parallel rank, quantised, with all layers.
        memory_bytes: of one device, as its driver reports them.
        options: of the engine; vLLM's defaults when absent.
        config: of the model, for what the graph does not hold: rotary tables, vision towers.
        stage: of the pipeline; when None the one with the fewest KV blocks.

    Returns:
        The plan of the pipeline's stage.

    Raises:
        CapacityError: weights and reserves leave no KV cache, or it does not hold one sequence of
            ``max_model_len``; the message gives both sizes.
        InputError: an option cannot be used.
    """
    options = options or MemoryOptions()
    if (options.max_model_len or 0) > graph.max_model_len:
        raise InputError(
            f"max_model_len {options.max_model_len} is longer than the context of {graph.model},"
            f" {graph.max_model_len}"
        )
    if options.kv_cache_dtype != "auto":
        graph = with_kv_cache(graph, options.kv_cache_dtype)
    stages = split_stages(graph, options.pipeline_parallel_size)
    if stage is not None:
        return _stage_plan(stages[stage], memory_bytes, options, config)
    plans = [_stage_plan(one, memory_bytes, options, config) for one in stages]
    return min(plans, key=lambda plan: plan.kv_cache_blocks)


def _stage_plan(
    graph: OpGraph, memory_bytes: float, options: MemoryOptions, config: ModelConfig | None
) -> MemoryPlan:
    fitting = options.max_model_len == FITTING
    asked = None if fitting else options.max_model_len
    step = options.largest_step(memory_bytes, asked or graph.max_model_len)
    budget = memory_bytes * options.gpu_memory_utilization
    stages = options.pipeline_parallel_size
    beside, encoder = _beside_the_graph(graph, config, step.tokens)
    weights = loaded_bytes(graph) + beside - options.cpu_offload_gb * GIB
    activations = encoder + activation_peak(graph, step, options.compute_units, stages)
    graphs = 0.0 if options.enforce_eager else cuda_graph_bytes(graph.num_layers, step.sequences)
    reserve = library_bytes(graph.tensor_parallel_size, stages)
    if options.estimate_cuda_graphs:
        reserve += graphs
    kv_bytes = budget - weights - activations - reserve
    layout = lay_out(graph.caches, options.block_size, step.max_model_len)
    if fitting:
        step = replace(step, max_model_len=max(1, _longest(layout, kv_bytes, step)))
    _check_fit(graph, layout, kv_bytes, budget, step)
    blocks = layout.blocks(kv_bytes)
    if options.num_gpu_blocks_override is not None:
        blocks = options.num_gpu_blocks_override
        kv_bytes = blocks * layout.block_bytes
    return MemoryPlan(
        weight_bytes=weights,
        activation_peak_bytes=activations,
        reserve_bytes=reserve,
        cuda_graph_bytes=graphs,
        kv_cache_bytes=kv_bytes,
        kv_cache_blocks=blocks,
        kv_cache_tokens=layout.tokens(blocks),
        max_model_len=step.max_model_len,
        max_concurrency=blocks / max(1, layout.blocks_for(step.max_model_len, step.tokens)),
        block_size=min((g.block_size for g in layout.groups), default=options.block_size),
        kv_groups=layout.groups,
    )


def _beside_the_graph(
    graph: OpGraph, config: ModelConfig | None, tokens: int
) -> tuple[float, float]:
    """Weight and activation bytes of what no operator of the language model holds.

    A vision tower that was traced with the model is in the graph's weights already, but whole:
    ranks share it. In a pipeline it is on the first stage, with the embedding.
    """
    if config is None:
        return 0.0, 0.0
    rotary = rotary_bytes(config, graph.dtype)
    tower = vision_tower(config)
    if tower is None or not any(op.kind == "embedding" for op, _ in graph.weighted_ops()):
        return rotary, 0.0
    traced = graph.weight_bytes - graph.operator_weight_bytes
    whole = max(traced, tower.parameters * bytes_per_element(graph.dtype))
    encoder = tower.encoder_bytes(graph.hidden_size, tokens, graph.dtype)
    return rotary + whole / graph.tensor_parallel_size - traced, encoder


def library_bytes(tensor_parallel_size: int, pipeline_parallel_size: int = 1) -> float:
    """Device memory that libraries take in the first step, beside what torch allocates."""
    libraries = LIBRARY_BYTES if pipeline_parallel_size == 1 else PIPELINE_LIBRARY_BYTES
    if tensor_parallel_size == 1:
        return libraries
    peers = tensor_parallel_size - 1
    return libraries + COLLECTIVE_BYTES + COLLECTIVE_BYTES_PER_PEER * peers


def cuda_graph_bytes(layers: int, max_num_seqs: int) -> float:
    """Captured graphs: a piecewise one for every size, a full one where all may be decodes."""
    sizes = capture_sizes(max_num_seqs)
    graphs = len(sizes) + sum(size <= max_num_seqs for size in sizes)
    return GRAPH_POOL_BYTES + graphs * layers * GRAPH_BYTES_PER_LAYER


def _check_fit(
    graph: OpGraph, layout: KvLayout, kv_bytes: float, budget: float, step: LargestStep
) -> None:
    if kv_bytes <= 0:
        raise CapacityError(
            f"{graph.model} does not fit: it needs {gib(budget - kv_bytes)} before any KV cache,"
            f" but may use {gib(budget)}; use more devices, fewer bits, or a higher"
            " gpu_memory_utilization"
        )
    needed = layout.bytes_for(step.max_model_len, step.tokens)
    if needed > kv_bytes:
        raise CapacityError(
            f"{graph.model}: one sequence of max_model_len {step.max_model_len} needs"
            f" {gib(needed)} of KV cache, but {gib(kv_bytes)} are left; the largest max_model_len"
            f" that fits is {_longest(layout, kv_bytes, step)}"
        )


def _longest(layout: KvLayout, kv_bytes: float, step: LargestStep) -> int:
    """The longest sequence that fits, by bisection; 0 if none does."""
    low, high = 0, step.max_model_len
    while low < high:
        middle = (low + high + 1) // 2
        if layout.bytes_for(middle, step.tokens) <= kv_bytes:
            low = middle
        else:
            high = middle - 1
    return low
