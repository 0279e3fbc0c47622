"""Mixtral (Jiang et al. 2024): Mistral with experts in every layer."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import experts, llama
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import LINEAR, Tensor, one

DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32, "rms_norm_eps": 1e-5}


def from_huggingface(settings: Settings) -> ModelConfig:
    return ModelConfig(
        family="mixtral",
        window=settings.get("sliding_window"),
        num_experts=settings.get("num_local_experts", 8),
        experts_per_token=settings.get("num_experts_per_tok", 2),
        routing={"balance_loss": experts.balance_loss(settings)},
        **llama.shape(settings, **DEFAULTS),
        **rope.from_huggingface(settings, 1e6),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "router_jitter_noise": 0.0,
        "sliding_window": config.window,
        **llama.words(config),
        **experts.balance_words(config),
        "intermediate_size": config.routing.expert_size or config.intermediate_size,
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


def tensors(config: ModelConfig) -> list[Tensor]:
    router = [one("block_sparse_moe.gate.weight", "mlp.router.kernel", LINEAR)]
    names = {"gate": "w1", "up": "w3", "down": "w2"}
    return experts.tensors(config, router, "block_sparse_moe.experts.{}.", names)


FAMILY = Family("mixtral", ("mixtral",), from_huggingface, to_huggingface, tensors, copies=llama.tied)
