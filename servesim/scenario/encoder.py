"""The vision tower of a model: beside its language model, or on instances of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from servesim.errors import CapacityError, UnsupportedError
from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.opgraph import OpGraph
from servesim.graph.shard import shard
from servesim.hardware.device import Device
from servesim.hardware.placement import Placement
from servesim.models.config import ModelConfig
from servesim.models.load import load_tower
from servesim.models.memory import MemoryPlan, library_bytes
from servesim.models.towers import VisionTower, vision_tower
from servesim.runtime.config import EngineConfig
from servesim.runtime.step_model import CompiledStepModel
from servesim.scenario.energy import clocked_costs
from servesim.scenario.sections import Instance
from servesim.scenario.together import refuse_together
from servesim.units import gib

#: Embeddings of a block of an encode instance's memory.
_BLOCK = 16


@dataclass(frozen=True)
class TowerEncoder:
    """Encodes images on ``device``: the tower's graph, a row a patch, attention within each image.

    The graph is traced when the first image comes.
    """

    instance: Instance
    engine: EngineConfig
    device: Device
    tower: VisionTower
    model: str

    def seconds(self, images: Sequence[int]) -> float:
        """Seconds to encode images of so many tokens each, together.

        Raises:
            UnsupportedError: the tower cannot be traced, or not be shared by the ranks.
        """
        rows = (max(1, round(tokens * self.tower.patches_per_token)) for tokens in images)
        return self.step_model.seconds(BatchShape(tuple((patches, 0) for patches in rows)))

    @cached_property
    def placement(self) -> Placement:
        """The tower on the ranks of the instance, each with its heads and columns."""
        section = self.instance.model
        graph = load_tower(section.id, dtype=section.dtype)
        if graph is None:
            raise UnsupportedError(f"{self.model} has no vision tower")
        costs = clocked_costs(self.instance.hardware, self.device, None)
        sharded = shard(graph, self.engine.tensor_parallel_size)
        return Placement.tensor_parallel(sharded, self.device, costs)

    @cached_property
    def step_model(self) -> CompiledStepModel:
        """What the tower takes, a row a patch."""
        return CompiledStepModel.compile(self.placement)

    @property
    def graph(self) -> OpGraph:
        """The tower, of one rank."""
        return self.placement.graph


def encoder_of(
    instance: Instance, engine: EngineConfig, device: Device, model: ModelConfig
) -> TowerEncoder | None:
    """What encodes images for ``instance``; None for a model without a vision tower."""
    tower = vision_tower(model)
    return None if tower is None else TowerEncoder(instance, engine, device, tower, model.name)


def embedding_bytes(encoder: TowerEncoder, model: ModelConfig) -> float:
    """Bytes that the language model gets for each token of an image."""
    width = int(model.language_values["hidden_size"])
    return width * encoder.tower.embeddings * bytes_per_element(encoder.graph.dtype)


def encoder_memory(encoder: TowerEncoder, engine: EngineConfig, model: ModelConfig) -> MemoryPlan:
    """What an encode instance keeps: the tower, and embeddings until they are handed over.

    Raises:
        CapacityError: nothing is left for embeddings.
    """
    graph, capacity = encoder.graph, encoder.device.memory.capacity_bytes
    token, most = embedding_bytes(encoder, model), engine.limits.max_num_batched_tokens
    size = bytes_per_element(graph.dtype)
    peak = most * (encoder.tower.pixels_per_token * size + token)
    reserve = library_bytes(graph.tensor_parallel_size, 1)
    left = capacity * engine.gpu_memory_utilization - graph.weight_bytes - peak - reserve
    blocks = int(left // (token * _BLOCK))
    if blocks < 2:
        raise CapacityError(
            f"{graph.model} leaves no room for embeddings on {encoder.device.name}, of which it "
            f"may use {gib(capacity * engine.gpu_memory_utilization)}"
        )
    if engine.num_gpu_blocks_override is not None:
        blocks = engine.num_gpu_blocks_override
    tokens = (blocks - 1) * _BLOCK
    return MemoryPlan(
        weight_bytes=graph.weight_bytes,
        activation_peak_bytes=peak,
        reserve_bytes=reserve,
        cuda_graph_bytes=0.0,
        kv_cache_bytes=blocks * token * _BLOCK,
        kv_cache_blocks=blocks,
        kv_cache_tokens=tokens,
        max_model_len=tokens,
        max_concurrency=float(tokens),
        block_size=_BLOCK,
    )


def encoding_config(engine: EngineConfig, memory: MemoryPlan) -> EngineConfig:
    """The options of an engine whose prompts are images.

    Raises:
        UnsupportedError: an option that only language models have.
    """
    others = {
        "pipeline_parallel_size": engine.pipeline_parallel_size > 1,
        "prefill_context_parallel_size": engine.prefill_context_parallel_size > 1,
        "cpu_offload_gb": engine.cpu_offload_gb > 0,
    }
    refuse_together("role 'encode'", others)
    return replace(
        engine,
        enable_prefix_caching=False,
        enable_lora=False,
        speculative_config=None,
        max_model_len=memory.max_model_len,
        block_size=memory.block_size,
    )
