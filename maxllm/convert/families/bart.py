"""BART (Lewis et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import EncoderDecoderConfig
from maxllm.convert.family import ACTIVATIONS, Family, Settings
from maxllm.convert.tensors import FLAT, LINEAR, OUTPUT, Tensor, one, repeated

OFFSET = 2  # rows of the position tables that no position uses
TO_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.only("quantization_config")
    hidden, heads, inner = (settings[f"{name}"] for name in ("d_model", "decoder_attention_heads", "decoder_ffn_dim"))
    settings.only("encoder_attention_heads", heads)
    settings.only("encoder_ffn_dim", inner)
    settings.only("tie_word_embeddings", True)
    # Of models from before transformers 4 ("BART" was mBART's and Blenderbot's class too).
    settings.only("normalize_before", False)
    settings.only("normalize_embedding", True)
    settings.only("add_final_layer_norm", False)
    settings.only("static_position_embeddings", False)
    return ModelConfig(
        architecture="encoder_decoder",
        family="bart",
        vocab_size=settings["vocab_size"],
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=settings["decoder_layers"],
        num_heads=heads,
        num_kv_heads=heads,
        max_positions=settings.get("max_position_embeddings", 1024),
        positions="learned",
        norm="layer",
        norm_placement="post",
        norm_eps=1e-5,
        activation=settings.choose("activation_function", ACTIVATIONS, "gelu"),
        gated=False,
        biases=("query_key_value", "output", "mlp"),
        embedding_scale=math.sqrt(hidden) if settings.get("scale_embedding", False) else None,
        embedding_norm=True,
        tie_embeddings=True,
        init_std=settings.get("init_std", 0.02),
        encoder_decoder=EncoderDecoderConfig(
            num_encoder_layers=settings["encoder_layers"],
            position_offset=OFFSET,
            start_id=settings.get("decoder_start_token_id", 2),
            forced_id=settings.get("forced_bos_token_id"),
        ),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    sizes = config.encoder_decoder
    forced = {} if sizes.forced_id is None else {"forced_bos_token_id": sizes.forced_id}
    return {
        "architectures": ["BartForConditionalGeneration"],
        "model_type": "bart",
        "activation_dropout": 0.0,
        "activation_function": TO_ACTIVATION[config.activation],
        "attention_dropout": 0.0,
        "d_model": config.hidden_size,
        "decoder_attention_heads": config.num_heads,
        "decoder_ffn_dim": config.intermediate_size,
        "decoder_layerdrop": 0.0,
        "decoder_layers": config.num_layers,
        "decoder_start_token_id": sizes.start_id,
        "dropout": 0.0,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.intermediate_size,
        "encoder_layerdrop": 0.0,
        "encoder_layers": sizes.num_encoder_layers,
        "forced_eos_token_id": None,
        "init_std": config.init_std,
        "is_encoder_decoder": True,
        "max_position_embeddings": config.max_positions,
        "scale_embedding": config.embedding_scale is not None,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        **forced,
    }


def _norm(theirs: str, ours: str) -> list[Tensor]:
    return [one(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


def _linear(theirs: str, ours: str, layout: Any = LINEAR) -> list[Tensor]:
    return [one(f"{theirs}.weight", f"{ours}.kernel", layout), one(f"{theirs}.bias", f"{ours}.bias", FLAT)]


def _attention(theirs: str, ours: str) -> list[Tensor]:
    found = _linear(f"{theirs}.out_proj", f"{ours}.output", OUTPUT)
    for short, name in {"q": "query", "k": "key", "v": "value"}.items():
        found += _linear(f"{theirs}.{short}_proj", f"{ours}.{name}")
    return found


def tensors(config: ModelConfig) -> list[Tensor]:
    encoder = [
        *_attention("self_attn", "attention"),
        *_norm("self_attn_layer_norm", "attention_norm"),
        *_linear("fc1", "mlp.up"),
        *_linear("fc2", "mlp.down"),
        *_norm("final_layer_norm", "mlp_norm"),
    ]
    decoder = [*encoder, *_attention("encoder_attn", "cross"), *_norm("encoder_attn_layer_norm", "cross_norm")]
    found = [one("model.shared.weight", "embed.embedding")]
    stacks = {"encoder": (encoder, config.encoder_decoder.num_encoder_layers), "decoder": (decoder, config.num_layers)}
    for side, (layer, count) in stacks.items():
        found += [
            one(f"model.{side}.embed_positions.weight", f"{side}.position.embedding"),
            *_norm(f"model.{side}.layernorm_embedding", f"{side}.embedding_norm"),
            *repeated(layer, f"model.{side}.layers.{{}}.", f"{side}.layers.", range(count)),
        ]
    return found


def canonical(name: str) -> str:
    """Some published folders were saved without the head, and so without the prefix."""
    return f"model.{name}" if name.startswith(("shared.", "encoder.", "decoder.")) else name


def copies(config: ModelConfig) -> dict[str, str]:
    names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    return dict.fromkeys(names, "model.shared.weight")


def computed(config: ModelConfig) -> dict[str, Callable[[], np.ndarray]]:
    """A bias of the logits that is zero in every published model, and that nothing trains."""
    return {"final_logits_bias": lambda: np.zeros((1, config.vocab_size), np.float32)}


FAMILY = Family(
    "bart", ("bart",), from_huggingface, to_huggingface, tensors, (), canonical, copies=copies, computed=computed
)
