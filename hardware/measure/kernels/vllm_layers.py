"""vLLM's linear layers, norms, activations, rotary embedding, look-ups and sampler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from servesim.graph.dtypes import bytes_per_element
from servesim.graph.work import GemmWork, Work
from servesim.hardware.measure.bench import Bench, Room
from servesim.hardware.measure.kernels import memory
from servesim.hardware.measure.kernels.memory import Rows
from servesim.hardware.measure.kernels.tensors import random
from servesim.hardware.measure.kernels.vllm_setup import config, made
from servesim.hardware.measure.timer import Call

#: Width of the heads that a rotary embedding is measured with, its heads a KV head, and positions.
_HEAD, _GROUP, _POSITIONS = 64, 4, 4096


class Linear:
    """A layer with its weights packed for the device, as vLLM's loader leaves it."""

    def __init__(self, spec: Any, room: Room) -> None:
        from vllm.model_executor.layers.linear import ReplicatedLinear

        self.spec, self.room = spec, room
        count = room.copies(spec.n * spec.k * bytes_per_element(spec.weight))
        first = random((spec.n, spec.k), spec.weight, room.device)
        self.layers = []
        for _ in range(count):
            layer = made(lambda: ReplicatedLinear(spec.k, spec.n, bias=spec.bias))
            layer.weight.data.copy_(first)
            # What expands latents keeps its plain weights: absorbed products are views of them.
            layer._cpu_skip_gemm_dispatch = spec.kind == "latent_expand"
            layer.quant_method.process_weights_after_loading(layer)
            self.layers.append(layer)

    def calls(self, work: Work) -> Sequence[Call]:
        """``work.m`` rows through each of the layers."""
        assert isinstance(work, GemmWork)
        x = random((work.m, work.k), work.dtype, self.room.device)
        return [partial(layer, x) for layer in self.layers]


def norm(spec: Any, room: Room) -> Rows:
    """RMSNorm or Gemma's; two where a fused operator stands for those of queries and keys.

    Layer norms are torch's.
    """
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm

    config()
    if spec.gated or spec.function == "layer":
        return memory.norm(spec, room)
    count = max(1, spec.weights // spec.width) if spec.groups > 1 else 1
    layer = GemmaRMSNorm if spec.function == "offset" else RMSNorm
    layers = [made(lambda: layer(spec.width)) for _ in range(count)]

    def bind(tokens: int) -> Call:
        rows = spec.groups // count
        x = random((tokens, rows, spec.width), spec.dtype, room.device)
        if spec.groups == 1:
            x = x.squeeze(1)
        residual = (x.clone(),) if spec.addends else ()
        if count == 1:
            return partial(layers[0], x, *residual)
        return partial(_each, layers, x)

    return Rows(bind)


def pointwise(spec: Any, room: Room) -> Bench:
    """SiluAndMul or GeluAndMul, rotary embedding, the router; torch's operators for the rest."""
    config()
    if spec.kernel == "activation" and round(spec.reads) == 2 * round(spec.writes):
        return _activation(spec, room)
    if spec.kernel == "rotary" and spec.reads >= _HEAD:
        return _rotary(spec, room)
    if spec.kernel == "router":
        return _router(spec, room)
    return memory.pointwise(spec, room)


def _activation(spec: Any, room: Room) -> Rows:
    from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul

    gelu = partial(GeluAndMul, approximate="tanh")
    layer = made(gelu if spec.function == "gelu" else SiluAndMul)
    width = round(spec.reads)
    return Rows(lambda tokens: partial(layer, random((tokens, width), spec.dtype, room.device)))


def _rotary(spec: Any, room: Room) -> Rows:
    import torch
    from vllm.model_executor.layers.rotary_embedding import get_rope

    parameters = {"rope_type": "default", "rope_theta": 10000.0}
    rope = made(lambda: get_rope(_HEAD, _POSITIONS, rope_parameters=parameters))
    heads = round(spec.reads) // _HEAD
    key_heads = heads // (_GROUP + 1)  # none: the queries', or the only key's, rotation alone

    def bind(tokens: int) -> Call:
        positions = torch.arange(tokens, device=room.device) % _POSITIONS
        query = random((tokens, (heads - key_heads) * _HEAD), spec.dtype, room.device)
        key = random((tokens, key_heads * _HEAD), spec.dtype, room.device) if key_heads else None
        return partial(rope, positions, query, key)

    return Rows(bind)


def _router(spec: Any, room: Room) -> Rows:
    """A softmax over the best, or a sigmoid of all, biased and chosen by groups (DeepSeek's)."""
    import torch
    from vllm.model_executor.layers.fused_moe.router.router_factory import (
        create_fused_moe_router,
    )

    experts, top_k = round(spec.reads), max(1, int(spec.writes))
    grouped: dict[str, Any] = {}
    if spec.ops > 2 * spec.reads:  # several operations an expert, not one
        grouped = {"use_grouped_topk": True, "num_expert_group": 1, "topk_group": 1}
        grouped |= {"scoring_func": "sigmoid", "routed_scaling_factor": 2.5}
        grouped["e_score_correction_bias"] = torch.zeros(experts, dtype=torch.float32)
    router = made(lambda: create_fused_moe_router(top_k, experts, **grouped))

    def bind(tokens: int) -> Call:
        logits = random((tokens, experts), spec.dtype, room.device)
        return partial(router.select_experts, logits, logits)

    return Rows(bind)


def embedding(spec: Any, room: Room) -> Rows:
    """VocabParallelEmbedding of one rank."""
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    config()
    layer = made(lambda: VocabParallelEmbedding(spec.rows, spec.width))

    def bind(tokens: int) -> Call:
        return partial(layer, torch.randint(spec.rows, (tokens,), device=room.device))

    return Rows(bind)


def sampler(spec: Any, room: Room) -> Rows:
    """The sampler with greedy requests only."""
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.sampler import Sampler

    config()
    layer = made(Sampler)

    def bind(rows: int) -> Call:
        none = torch.empty(0)
        greedy = SamplingMetadata(
            temperature=None,
            all_greedy=True,
            all_random=False,
            top_p=None,
            top_k=None,
            generators={},
            max_num_logprobs=None,
            no_penalties=True,
            prompt_token_ids=None,
            frequency_penalties=none,
            presence_penalties=none,
            repetition_penalties=none,
            output_token_ids=[[] for _ in range(rows)],
            allowed_token_ids_mask=None,
            bad_words_token_ids={},
            logitsprocs=LogitsProcessors(),
        )
        return partial(layer, random((rows, spec.vocab), "bf16", room.device), greedy)

    return Rows(bind)


def _each(layers: Sequence[Any], x: Any) -> None:
    for layer in layers:
        layer(x)
