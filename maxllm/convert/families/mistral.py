"""Mistral (Jiang et al. 2023): Llama with a sliding window."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import llama
from maxllm.convert.family import Family, Settings

DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32}


def from_huggingface(settings: Settings) -> ModelConfig:
    window = settings.values.get("sliding_window", 4096)  # null says: none
    return ModelConfig(
        family="mistral",
        window=window,
        **llama.shape(settings, **DEFAULTS),
        **rope.from_huggingface(settings),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": config.window,
        **llama.words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


FAMILY = Family(
    "mistral",
    ("mistral",),
    from_huggingface,
    to_huggingface,
    llama.tensors,
    llama.ROTARY_BUFFERS,
    copies=llama.tied,
)
