"""GPT-2 (Radford et al. 2019), and GPT-3's shapes in its layout."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.family import ACTIVATIONS, Family, Settings
from maxllm.convert.tensors import FLAT, LINEAR, Tensor, conv1d, joined, one, repeated


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.unquantized()
    settings.only("scale_attn_weights", True)
    settings.only("scale_attn_by_inverse_layer_idx", False)
    settings.only("add_cross_attention", False)
    hidden, heads = settings["n_embd"], settings["n_head"]
    return ModelConfig(
        family="gpt2",
        vocab_size=settings["vocab_size"],
        hidden_size=hidden,
        intermediate_size=settings.get("n_inner", 4 * hidden),
        num_layers=settings["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        max_positions=settings.get("n_positions", 1024),
        positions="learned",
        norm="layer",
        norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        activation=settings.choose("activation_function", ACTIVATIONS, "gelu_new"),
        gated=False,
        biases=("query_key_value", "output", "mlp"),
        tie_embeddings=settings.get("tie_word_embeddings", True),
        init_std=settings.get("initializer_range", 0.02),
    )


TO_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": TO_ACTIVATION[config.activation],
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "initializer_range": config.init_std,
        "layer_norm_epsilon": config.norm_eps,
        "n_embd": config.hidden_size,
        "n_head": config.num_heads,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_positions": config.max_positions,
        "resid_pdrop": 0.0,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


_QKV = ("query", "key", "value")
LAYER = [
    one("ln_1.weight", "attention_norm.weight"),
    one("ln_1.bias", "attention_norm.bias"),
    joined("attn.c_attn.weight", [(f"attention.{name}.kernel", conv1d()) for name in _QKV], axis=1),
    joined("attn.c_attn.bias", [(f"attention.{name}.bias", FLAT) for name in _QKV]),
    one("attn.c_proj.weight", "attention.output.kernel", conv1d(2)),
    one("attn.c_proj.bias", "attention.output.bias"),
    one("ln_2.weight", "mlp_norm.weight"),
    one("ln_2.bias", "mlp_norm.bias"),
    one("mlp.c_fc.weight", "mlp.up.kernel", conv1d()),
    one("mlp.c_fc.bias", "mlp.up.bias"),
    one("mlp.c_proj.weight", "mlp.down.kernel", conv1d()),
    one("mlp.c_proj.bias", "mlp.down.bias"),
]


def tensors(config: ModelConfig) -> list[Tensor]:
    head = [] if config.tie_embeddings else [one("lm_head.weight", "head.kernel", LINEAR)]
    return [
        one("transformer.wte.weight", "embed.embedding"),
        one("transformer.wpe.weight", "position.embedding"),
        *repeated(LAYER, "transformer.h.{}.", "layers.", range(config.num_layers)),
        one("transformer.ln_f.weight", "norm.weight"),
        one("transformer.ln_f.bias", "norm.bias"),
        *head,
    ]


def canonical(name: str) -> str:
    """The first published folders were saved without the head, and so without the prefix."""
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def tied(config: ModelConfig) -> dict[str, str]:
    return {"lm_head.weight": "transformer.wte.weight"} if config.tie_embeddings else {}


# The causal mask was once written with the weights.
MASKS = (r".*\.attn\.(bias|masked_bias)",)
FAMILY = Family("gpt2", ("gpt2",), from_huggingface, to_huggingface, tensors, MASKS, canonical, tied)
