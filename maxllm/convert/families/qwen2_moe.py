"""Qwen 1.5 and 2 with experts (Yang et al. 2024): many small ones, and one for every token behind a gate."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import experts, llama, qwen2
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import LINEAR, Tensor, one

DEFAULTS = {"num_key_value_heads": 16, "max_position_embeddings": 32768}


def from_huggingface(settings: Settings) -> ModelConfig:
    qwen2.refuse(settings)
    settings.only("use_sliding_window", False)
    return ModelConfig(
        family="qwen2_moe",
        biases=("query_key_value",) if settings.get("qkv_bias", True) else (),
        num_experts=settings.get("num_experts", 60),
        experts_per_token=settings.get("num_experts_per_tok", 4),
        routing={
            **experts.qwen_routing(settings, 1408),
            "shared_size": settings.get("shared_expert_intermediate_size", 5632),
            "shared_gate": True,
        },
        **llama.shape(settings, **DEFAULTS),
        **rope.from_huggingface(settings),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        "qkv_bias": "query_key_value" in config.biases,
        "shared_expert_intermediate_size": config.routing.shared_size,
        **experts.qwen_words(config),
        **llama.words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


def tensors(config: ModelConfig) -> list[Tensor]:
    own = [
        one("mlp.gate.weight", "mlp.router.kernel", LINEAR),
        one("mlp.shared_expert_gate.weight", "mlp.shared_gate", LINEAR),
        *experts.shared_experts("shared_expert"),
    ]
    return experts.tensors(config, own)


FAMILY = Family("qwen2_moe", ("qwen2_moe",), from_huggingface, to_huggingface, tensors, copies=llama.tied)
