"""GPT-1 (Radford et al. 2018): GPT-2's tensors with norms after the sums, and none at the end."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import gpt2
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import LINEAR, Tensor, one, repeated

# In this family alone, "gelu" is the tanh approximation.
ACTIVATIONS = {"gelu": "gelu_tanh", "gelu_new": "gelu_tanh", "silu": "silu", "swish": "silu", "relu": "relu"}


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.unquantized()
    hidden, heads = settings["n_embd"], settings["n_head"]
    return ModelConfig(
        family="gpt1",
        vocab_size=settings["vocab_size"],
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_layers=settings["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        max_positions=settings.get("n_positions", 512),
        positions="learned",
        norm="layer",
        norm_placement="post",
        norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        activation=settings.choose("afn", ACTIVATIONS, "gelu"),
        gated=False,
        biases=("query_key_value", "output", "mlp"),
        tie_embeddings=settings.get("tie_word_embeddings", True),
        init_std=settings.get("initializer_range", 0.02),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        "afn": {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}.get(config.activation, "gelu"),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "initializer_range": config.init_std,
        "layer_norm_epsilon": config.norm_eps,
        "n_embd": config.hidden_size,
        "n_head": config.num_heads,
        "n_layer": config.num_layers,
        "n_positions": config.max_positions,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        "vocab_size": config.vocab_size,
    }


def tensors(config: ModelConfig) -> list[Tensor]:
    head = [] if config.tie_embeddings else [one("lm_head.weight", "head.kernel", LINEAR)]
    return [
        one("transformer.tokens_embed.weight", "embed.embedding"),
        one("transformer.positions_embed.weight", "position.embedding"),
        *repeated(gpt2.LAYER, "transformer.h.{}.", "layers.", range(config.num_layers)),
        *head,
    ]


def tied(config: ModelConfig) -> dict[str, str]:
    return {"lm_head.weight": "transformer.tokens_embed.weight"} if config.tie_embeddings else {}


FAMILY = Family(
    "gpt1",
    ("openai-gpt",),
    from_huggingface,
    to_huggingface,
    tensors,
    (*gpt2.MASKS, r".*\.position_ids"),
    gpt2.canonical,
    tied,
)
