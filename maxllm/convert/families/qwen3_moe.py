"""Qwen 3 with experts (Yang et al. 2025): many small ones, none for every token."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import experts, llama, qwen2
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import LINEAR, Tensor, one

DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 32768}


def from_huggingface(settings: Settings) -> ModelConfig:
    qwen2.refuse(settings)
    settings.only("use_sliding_window", False)
    return ModelConfig(
        family="qwen3_moe",
        query_key_norm=True,
        biases=("query_key_value", "output") if settings.get("attention_bias") else (),
        # transformers 5 writes num_local_experts, and everybody before num_experts.
        num_experts=settings.get("num_experts", settings.get("num_local_experts", 128)),
        experts_per_token=settings.get("num_experts_per_tok", 8),
        routing=experts.qwen_routing(settings, 768),
        **llama.shape(settings, **DEFAULTS),
        **rope.from_huggingface(settings),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": "output" in config.biases,
        **experts.qwen_words(config),
        **llama.words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


def tensors(config: ModelConfig) -> list[Tensor]:
    return experts.tensors(config, [one("mlp.gate.weight", "mlp.router.kernel", LINEAR)])


FAMILY = Family("qwen3_moe", ("qwen3_moe",), from_huggingface, to_huggingface, tensors, copies=llama.tied)
