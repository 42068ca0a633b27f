"""Why an engine could never run a request."""

from __future__ import annotations

from servesim.runtime.config import EngineConfig
from servesim.runtime.instance import Instance
from servesim.runtime.request import RequestSpec
from servesim.runtime.scheduler import Scheduler


def refusal(spec: RequestSpec, instance: Instance, scheduler: Scheduler) -> str | None:
    """Why ``instance`` could never run ``spec``, even alone; None if it can."""
    config = instance.config
    if spec.adapter is not None and not config.enable_lora:
        return f"it is for LoRA adapter {spec.adapter}; enable_lora is off"
    if spec.images and not (instance.encoder and scheduler.takes_images):
        why = f"scheduling_policy {config.scheduling_policy} is modelled without"
        return f"it has images; {why if instance.encoder else 'nothing encodes them here'}"
    tokens = spec.prompt_tokens + spec.output_tokens
    limit = config.max_model_len
    if limit is not None and tokens > limit:
        return f"prompt and output are {tokens} tokens; max_model_len is {limit}"
    computed = tokens - 1  # the last token's KV is never needed
    blocks, available = scheduler.blocks_of(computed + _beyond(spec, config)), instance.blocks - 1
    if blocks > available:
        return f"{tokens} tokens need {blocks} KV blocks; there are {available}"
    most = config.limits.max_num_batched_tokens
    if not config.enable_chunked_prefill and computed > most:
        return f"{computed} tokens may need one prefill; max_num_batched_tokens is {most}"
    return None


def _beyond(spec: RequestSpec, config: EngineConfig) -> int:
    """Tokens that ``spec`` may hold blocks for beside those it needs: of drafts, and in vain."""
    tokens, ahead = spec.prompt_tokens + spec.output_tokens, config.async_scheduling
    stops = ahead and spec.max_tokens is not None and spec.max_tokens > spec.output_tokens
    beyond = int(stops)
    if config.speculation is not None:
        drafts = config.speculation.num_speculative_tokens
        beyond += drafts * (1 + ahead) + config.speculation.lookahead
    return min(beyond, config.longest - tokens + 1)
