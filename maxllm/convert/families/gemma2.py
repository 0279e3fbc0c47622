"""Gemma 2 (Gemma Team 2024): norms on both sides, soft caps, a window in every other layer (the first has one)."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import gemma, llama, windows
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import Tensor, one, repeated

NORMS = [
    one("input_layernorm.weight", "attention_norm.weight"),
    one("post_attention_layernorm.weight", "attention_post_norm.weight"),
    one("pre_feedforward_layernorm.weight", "mlp_norm.weight"),
    one("post_feedforward_layernorm.weight", "mlp_post_norm.weight"),
]


def shape(settings: Settings, **defaults: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 have."""
    return gemma.shape(settings, num_key_value_heads=4, **defaults) | {
        "norm_placement": "both",
        "attention_scale": settings.get("query_pre_attn_scalar", 256) ** -0.5,
    }


def words(config: ModelConfig) -> dict[str, Any]:
    scalar = (config.attention_scale or config.head_size**-0.5) ** -2
    return gemma.words(config) | {
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logits_softcap,
        "layer_types": windows.kinds_of(config),
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
        "sliding_window": config.window,
    }


def from_huggingface(settings: Settings) -> ModelConfig:
    kinds = settings.get("layer_types", windows.kinds(settings["num_hidden_layers"], 2))
    window = settings.values.get("sliding_window", 4096)
    return ModelConfig(
        family="gemma2",
        attention_softcap=settings.values.get("attn_logit_softcapping", 50.0),  # null says: none
        logits_softcap=settings.values.get("final_logit_softcapping", 30.0),
        **windows.from_layers(settings, kinds, window, 2),
        **shape(settings),
        **rope.from_huggingface(settings),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        **words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


def tensors(config: ModelConfig) -> list[Tensor]:
    layer = [*llama.attention(config), *llama.MLP, *NORMS]
    return [*llama.ends(config), *repeated(layer, "model.layers.{}.", "layers.", range(config.num_layers))]


FAMILY = Family(
    "gemma2", ("gemma2",), from_huggingface, to_huggingface, tensors, llama.ROTARY_BUFFERS, copies=llama.tied
)
