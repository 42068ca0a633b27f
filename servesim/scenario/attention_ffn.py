"""An instance whose attention and FFNs run on different devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from servesim.errors import CapacityError, InputError
from servesim.graph.opgraph import OpGraph
from servesim.graph.passes.attention_ffn import first_layer_apart, halves, joined
from servesim.graph.passes.expert import GATHERING
from servesim.graph.shard import shard
from servesim.hardware import load as hardware
from servesim.hardware.attention_ffn import AttentionFfnPlacement, Sides
from servesim.hardware.cost import CostModel
from servesim.hardware.device import Device
from servesim.hardware.link import Link
from servesim.models.config import ModelConfig
from servesim.models.load import load_graph
from servesim.models.quantisation import quantise
from servesim.runtime.attention_ffn_step import AttentionFfnStepModel
from servesim.runtime.config import EngineConfig
from servesim.scenario.parallel import spread
from servesim.scenario.sections import Instance, ModelSection
from servesim.scenario.together import refuse_together
from servesim.units import gib


@dataclass(frozen=True)
class Apart:
    """The two sides of an instance, sharded.

    Attributes:
        attention: what an attention device holds.
        whole: what runs: both, joined.
        device, count: the FFN devices.
        link: of each device to the other side.
    """

    attention: OpGraph
    whole: OpGraph
    device: Device
    count: int
    link: Link

    def placement(
        self,
        device: Device,
        engine: EngineConfig,
        costs: CostModel | None,
        collectives: CostModel | None,
    ) -> AttentionFfnPlacement:
        """Attention on ``device``.

        Raises:
            CapacityError: the weights do not fit.
            UnsupportedError: a group that no link joins.
        """
        sides = Sides(engine.data_parallel_size, engine.tensor_parallel_size, self.count)
        given = {device.name: costs} if costs is not None else {}
        placement = AttentionFfnPlacement.of(
            self.whole, (device, self.device), self.link, sides, given, collectives
        )
        weights = self.whole.weight_bytes - self.attention.weight_bytes
        room = engine.gpu_memory_utilization * self.device.memory.capacity_bytes
        if weights > room:
            raise CapacityError(
                f"the FFNs of {self.whole.model} take {gib(weights)} on each of {self.count} x "
                f"{self.device.name}, which may use {gib(room)}"
            )
        return placement


def taken_apart(instance: Instance, engine: EngineConfig, model: ModelConfig) -> Apart:
    """The model of ``instance``: attention on its own devices, FFNs on those of ``[placement]``.

    Raises:
        InputError: a key or value of ``[placement] ffn`` that cannot be used.
        UnsupportedError: an option beside it, or a model without FFNs or that does not divide.
    """
    _require_alone(instance, engine)
    table = dict(instance.placement.ffn or {})
    device = hardware.load_device(str(table.pop("device", instance.hardware.device)))
    count, link = table.pop("count", 1), _link(table.pop("link", None))
    if table:
        raise InputError(f"[placement] ffn: unknown {', '.join(table)}; known: device, count, link")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"[placement] ffn: count must be a whole number from 1 on, not {count!r}")
    section = instance.model
    graph = first_layer_apart(load_graph(section.id, dtype=section.dtype))
    attention, ffn = halves(graph)
    by_expert = engine.enable_expert_parallel
    attention = _quantised(shard(attention, engine.tensor_parallel_size), section, engine, model)
    ffn = _quantised(shard(ffn, count, enable_expert_parallel=by_expert), section, engine, model)
    ffn = spread(ffn, section, replace(engine, data_parallel_size=1))
    whole = joined(graph, attention, ffn, engine.data_parallel_size)
    return Apart(attention, whole, device, count, link)


def stepping(
    placement: AttentionFfnPlacement, instance: Instance, engine: EngineConfig
) -> AttentionFfnStepModel:
    """The step model of each attention worker."""
    sizes = tuple(sorted(engine.cudagraph_capture_sizes))
    return AttentionFfnStepModel(placement, sizes, sub_batches=instance.placement.sub_batches)


def _quantised(
    graph: OpGraph, section: ModelSection, engine: EngineConfig, model: ModelConfig
) -> OpGraph:
    return quantise(graph, model, section.quantization, engine.kv_cache_dtype)


def _link(table: Mapping[str, Any] | None) -> Link:
    if not isinstance(table, Mapping):
        raise InputError(
            "[placement] ffn needs a link: a table with the bandwidth and latency of each device's"
            " way to the other side"
        )
    return hardware.given_link(table, "[placement] ffn: link")


def _require_alone(instance: Instance, engine: EngineConfig) -> None:
    """Refuse what goes only with whole layers on a device."""
    others = {
        "pipeline_parallel_size": engine.pipeline_parallel_size > 1,
        "prefill_context_parallel_size": engine.prefill_context_parallel_size > 1,
        "decode_context_parallel_size": engine.decode_context_parallel_size > 1,
        "speculative_config": engine.speculative_config is not None,
        "enable_lora": engine.enable_lora,
        "cpu_offload_gb": engine.cpu_offload_gb > 0,
        "power_limit_watts": instance.hardware.power_limit_watts is not None,
        f"all2all_backend {engine.all2all_backend!r}": engine.all2all_backend not in GATHERING,
    }
    refuse_together("[placement] kind 'attention_ffn'", others)
