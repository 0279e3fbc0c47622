"""Llama 1 to 3 (Touvron et al. 2023; Dubey et al. 2024), and what other families share with it."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.family import ACTIVATIONS, TO_ACTIVATION, Family, Settings
from maxllm.convert.tensors import FLAT, LINEAR, OUTPUT, SAME, Tensor, one, repeated

ROTARY_BUFFERS = (r".*rotary_emb\.inv_freq",)  # of old checkpoints


def shape(settings: Settings, **defaults: Any) -> dict[str, Any]:
    """ModelConfig's fields in the words of Llama's family. `defaults`: of transformers, which writes no field that
    equals them in older versions; by their names."""
    settings.unquantized()
    heads, hidden = settings["num_attention_heads"], settings["hidden_size"]
    head_dim = settings.get("head_dim", defaults.get("head_dim"))
    return {
        "vocab_size": settings["vocab_size"],
        "hidden_size": hidden,
        "intermediate_size": settings["intermediate_size"],
        "num_layers": settings["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": settings.get("num_key_value_heads", defaults.get("num_key_value_heads", heads)),
        "head_dim": None if head_dim is None or head_dim * heads == hidden else head_dim,
        "max_positions": settings.get("max_position_embeddings", defaults.get("max_position_embeddings", 2048)),
        "norm_eps": settings.get("rms_norm_eps", defaults.get("rms_norm_eps", 1e-6)),
        "tie_embeddings": settings.get("tie_word_embeddings", defaults.get("tie_word_embeddings", False)),
        "init_std": settings.get("initializer_range", 0.02),
        "activation": settings.choose("hidden_act", ACTIVATIONS, "silu"),
    }


def words(config: ModelConfig) -> dict[str, Any]:
    """The same settings in their words."""
    return {
        "attention_dropout": 0.0,
        "head_dim": config.head_size,
        "hidden_act": TO_ACTIVATION[config.activation],
        "hidden_size": config.hidden_size,
        "initializer_range": config.init_std,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def from_huggingface(settings: Settings) -> ModelConfig:
    biases = ("query_key_value", "output") if settings.get("attention_bias") else ()
    biases += ("mlp",) if settings.get("mlp_bias") else ()
    settings.only("pretraining_tp", 1, *range(2, 9))  # numerics of the training's machines: the model is the same
    return ModelConfig(family="llama", biases=biases, **shape(settings), **rope.from_huggingface(settings))


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": "output" in config.biases,
        "mlp_bias": "mlp" in config.biases,
        "pretraining_tp": 1,
        **words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


MLP = [
    one("mlp.gate_proj.weight", "mlp.gate.kernel", LINEAR),
    one("mlp.up_proj.weight", "mlp.up.kernel", LINEAR),
    one("mlp.down_proj.weight", "mlp.down.kernel", LINEAR),
]
NORMS = [
    one("input_layernorm.weight", "attention_norm.weight"),
    one("post_attention_layernorm.weight", "mlp_norm.weight"),
]


def attention(config: ModelConfig) -> list[Tensor]:
    """Of one layer."""
    found = []
    for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
        found.append(one(f"self_attn.{theirs}_proj.weight", f"attention.{ours}.kernel", LINEAR))
        if "query_key_value" in config.biases:
            found.append(one(f"self_attn.{theirs}_proj.bias", f"attention.{ours}.bias", FLAT))
        if config.query_key_norm and ours != "value":
            found.append(one(f"self_attn.{theirs}_norm.weight", f"attention.{ours}_norm.weight"))
    found.append(one("self_attn.o_proj.weight", "attention.output.kernel", OUTPUT))
    if "output" in config.biases:
        found.append(one("self_attn.o_proj.bias", "attention.output.bias"))
    return found


def ends(config: ModelConfig) -> list[Tensor]:
    """What is not of a layer: the embedding, the last norm, the head."""
    found = [one("model.embed_tokens.weight", "embed.embedding"), one("model.norm.weight", "norm.weight")]
    return found if config.tie_embeddings else [*found, one("lm_head.weight", "head.kernel", LINEAR)]


def tied(config: ModelConfig) -> dict[str, str]:
    """Some exporters write the tied head too."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_embeddings else {}


def tensors(config: ModelConfig) -> list[Tensor]:
    mlp_biases = [one(f"mlp.{name}_proj.bias", f"mlp.{name}.bias", SAME) for name in ("gate", "up", "down")]
    layer = [*attention(config), *MLP, *(mlp_biases if "mlp" in config.biases else ()), *NORMS]
    return [*ends(config), *repeated(layer, "model.layers.{}.", "layers.", range(config.num_layers))]


FAMILY = Family("llama", ("llama",), from_huggingface, to_huggingface, tensors, ROTARY_BUFFERS, copies=tied)
