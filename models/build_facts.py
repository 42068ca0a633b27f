"""Config values for model types whose config class does not build a model from its defaults."""

from __future__ import annotations

from typing import Any

from servesim.models.config import resolve

#: Types described by a built-in checkpoint instead.
_CHECKPOINTS = {
    "deepseek_v2": "deepseek-ai/DeepSeek-V2-Lite",
    "granitemoehybrid": "ibm-granite/granite-4.0-h-tiny",
}

#: What the defaults lack, as the first released checkpoint of the type has it (its config.json),
#: where there is one.
_FACTS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [9, 18, 27]},  # ibm-ai-platform/Bamba-9B
    "blt": {"num_hidden_layers": 25},  # layers of its global transformer
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    },
    "dbrx": {  # databricks/dbrx-base
        "d_model": 6144,
        "n_heads": 48,
        "n_layers": 40,
        "max_seq_len": 32768,
        "vocab_size": 100352,
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "dots1": {  # rednote-hilab/dots.llm1.base
        "hidden_size": 4096,
        "n_routed_experts": 128,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 32768,
    },
    "lfm2_moe": {  # LiquidAI/LFM2-8B-A1B
        "num_hidden_layers": 24,
        "layer_types": [
            "full_attention" if i in {2, 6, 10, 14, 18, 21} else "conv" for i in range(24)
        ],
    },
    # No checkpoint is out; the sizes are those of sparse-indexed attention elsewhere
    # (DeepSeek-V3.2: 2048 tokens chosen).
    "qwen4_exp_text": {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 256,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
    },
    "xmod": {"default_language": "en_XX"},  # facebook/xmod-base
}

#: Types in the causal-LM mapping that cannot serve by themselves, and why.
NOT_STANDALONE = {
    "gemma4_assistant": "drafts tokens from the keys and values of another model",
    "gemma4_unified_assistant": "drafts tokens from the keys and values of another model",
}


def default_values(model_type: str) -> dict[str, Any]:
    """Values over the defaults of the config class of ``model_type``."""
    if model_type in _CHECKPOINTS:
        values = dict(resolve(_CHECKPOINTS[model_type]).values)
        values.pop("model_type")
        return values
    if model_type == "qwen4_exp":
        return {"text_config": _FACTS["qwen4_exp_text"]}
    return _FACTS.get(model_type, {})
