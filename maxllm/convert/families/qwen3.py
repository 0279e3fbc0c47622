"""Qwen 3 (Yang et al. 2025): norms of queries and keys instead of biases."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import llama, qwen2
from maxllm.convert.family import Family, Settings

DEFAULTS = {"max_position_embeddings": 32768, "head_dim": 128}


def from_huggingface(settings: Settings) -> ModelConfig:
    qwen2.refuse(settings)
    return ModelConfig(
        family="qwen3",
        query_key_norm=True,
        biases=("query_key_value", "output") if settings.get("attention_bias") else (),
        **qwen2.window(settings),
        **llama.shape(settings, **DEFAULTS),
        **rope.from_huggingface(settings),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": "output" in config.biases,
        **llama.words(config),
        **qwen2.window_words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


FAMILY = Family(
    "qwen3", ("qwen3",), from_huggingface, to_huggingface, llama.tensors, llama.ROTARY_BUFFERS, copies=llama.tied
)
