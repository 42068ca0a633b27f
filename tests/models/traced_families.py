"""One full-size checkpoint of every well-known family, with its published size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A checkpoint; ``parameters`` in billions as its model card or paper rounds them.

    ``active``: parameters a token meets, published, for mixtures of experts.
    """

    model: str
    parameters: float
    active: float | None = None


FAMILIES = (
    Family("meta-llama/Llama-2-7b-hf", 6.74),
    Family("meta-llama/Llama-3.1-8B", 8.03),
    Family("meta-llama/Llama-3.1-70B", 70.6),
    Family("meta-llama/Llama-3.2-1B", 1.24),
    Family("meta-llama/Llama-4-Scout-17B-16E-Instruct", 107.8, 16.1),
    Family("mistralai/Mistral-7B-v0.3", 7.25),
    Family("mistralai/Mixtral-8x7B-v0.1", 46.7, 12.9),
    Family("Qwen/Qwen2.5-7B", 7.62),
    Family("Qwen/Qwen3-32B", 32.8),
    Family("Qwen/Qwen3-30B-A3B", 30.5, 3.3),
    Family("Qwen/Qwen3-Next-80B-A3B-Instruct", 79.7),
    Family("Qwen/Qwen1.5-MoE-A2.7B", 14.3, 2.7),
    Family("deepseek-ai/DeepSeek-V2-Lite", 15.7, 2.4),
    Family("deepseek-ai/DeepSeek-V3", 671.0, 37.0),
    Family("moonshotai/Kimi-K2-Instruct", 1026.0, 32.0),
    Family("google/gemma-2-9b", 9.24),
    Family("google/gemma-3-27b-it", 27.0),
    Family("openai/gpt-oss-20b", 20.9, 3.6),
    Family("openai/gpt-oss-120b", 116.8, 5.1),
    Family("zai-org/GLM-4.5-Air", 106.9, 12.0),
    Family("microsoft/Phi-3-mini-4k-instruct", 3.82),
    Family("microsoft/phi-2", 2.78),
    Family("allenai/OLMo-2-1124-7B", 7.30),
    Family("allenai/OLMoE-1B-7B-0924", 6.92, 1.3),
    Family("CohereLabs/c4ai-command-r7b-12-2024", 8.03),
    Family("tiiuae/falcon-7b", 6.92),
    Family("bigscience/bloom-7b1", 7.07),
    Family("facebook/opt-6.7b", 6.66),
    Family("openai-community/gpt2", 0.124),
    Family("EleutherAI/gpt-neox-20b", 20.6),
    Family("EleutherAI/gpt-j-6b", 6.05),
    Family("mosaicml/mpt-7b", 6.65),
    Family("bigcode/starcoder2-15b", 16.0),
    Family("ibm-granite/granite-3.3-8b-instruct", 8.17),
    Family("ibm-granite/granite-4.0-h-tiny", 6.94),
    Family("HuggingFaceTB/SmolLM3-3B", 3.08),
    Family("MiniMaxAI/MiniMax-M2", 228.7, 10.0),
    Family("ai21labs/Jamba-v0.1", 51.6, 12.0),
    Family("nvidia/Nemotron-H-8B-Base-8K", 8.10),
    Family("state-spaces/mamba-2.8b-hf", 2.77),
    Family("mistralai/Mamba-Codestral-7B-v0.1", 7.29),
    Family("ByteDance-Seed/Seed-OSS-36B-Instruct", 36.2),
    Family("LGAI-EXAONE/EXAONE-4.0-32B", 32.0),
    Family("LiquidAI/LFM2-1.2B", 1.17),
    Family("baidu/ERNIE-4.5-21B-A3B-PT", 21.8, 3.0),
    Family("stabilityai/stablelm-2-1_6b", 1.64),
)
