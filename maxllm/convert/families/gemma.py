"""Gemma (Gemma Team 2024): GeGLU, norms of 1 + weight, scaled embeddings; multi-query in the small size."""

from __future__ import annotations

import math
from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import llama
from maxllm.convert.family import Family, Settings

DEFAULTS = {"head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True}


def shape(settings: Settings, **defaults: Any) -> dict[str, Any]:
    """What all Gemmas have."""
    settings.only("use_bidirectional_attention", False)
    fields = llama.shape(_activation(settings), **DEFAULTS | defaults)
    return fields | {
        "norm": "rms_plus_one",
        "embedding_scale": math.sqrt(fields["hidden_size"]),
        "biases": ("query_key_value", "output") if settings.get("attention_bias") else (),
    }


def _activation(settings: Settings) -> Settings:
    """`hidden_act: gelu` of the published folders means the tanh approximation (transformers decided so in 2024), and
    `hidden_activation`, where it is there, is what counts."""
    values = dict(settings.values)
    legacy = settings.get("hidden_act", "gelu_pytorch_tanh")
    values["hidden_act"] = "gelu_pytorch_tanh" if legacy == "gelu" else legacy
    if (newer := settings.get("hidden_activation")) is not None:
        values["hidden_act"] = newer
    return Settings(values, settings.where)


def words(config: ModelConfig) -> dict[str, Any]:
    found = llama.words(config)
    return found | {"attention_bias": "output" in config.biases, "hidden_activation": found["hidden_act"]}


def from_huggingface(settings: Settings) -> ModelConfig:
    return ModelConfig(family="gemma", **shape(settings), **rope.from_huggingface(settings))


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        **words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


FAMILY = Family(
    "gemma", ("gemma",), from_huggingface, to_huggingface, llama.tensors, llama.ROTARY_BUFFERS, copies=llama.tied
)
