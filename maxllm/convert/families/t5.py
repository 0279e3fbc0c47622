"""T5 (Raffel et al. 2019), its version 1.1 (Shazeer 2020) and UL2 (Tay et al. 2022), which has 1.1's layout."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import EncoderDecoderConfig
from maxllm.convert.family import ACTIVATIONS, Family, Settings
from maxllm.convert.tensors import LINEAR, OUTPUT, Tensor, one, repeated

# "gated-gelu" means the approximated one, for backward compatibility.
FEED_FORWARD = {name: (ours, False) for name, ours in ACTIVATIONS.items()}
FEED_FORWARD |= {f"gated-{name}": (ours, True) for name, ours in ACTIVATIONS.items()} | {
    "gated-gelu": ("gelu_tanh", True)
}
TO_FEED_FORWARD = {
    ("relu", False): "relu",
    ("silu", False): "silu",
    ("gelu", False): "gelu",
    ("gelu_tanh", False): "gelu_new",
    ("relu", True): "gated-relu",
    ("silu", True): "gated-silu",
    ("gelu", True): "gated-gelu_python",
    ("gelu_tanh", True): "gated-gelu",
}


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.only("quantization_config")
    hidden, heads = settings["d_model"], settings["num_heads"]
    activation, gated = settings.choose("feed_forward_proj", FEED_FORWARD, "relu")
    layers = settings["num_layers"]
    head_dim = settings["d_kv"]
    # transformers 5 writes tie_word_embeddings true for 1.1 as well, whose head is its own and does not scale.
    tied = settings.get("tie_word_embeddings", True) and settings.get("scale_decoder_outputs", True)
    return ModelConfig(
        architecture="encoder_decoder",
        family="t5",
        vocab_size=settings["vocab_size"],
        hidden_size=hidden,
        intermediate_size=settings["d_ff"],
        num_layers=settings.get("num_decoder_layers", layers),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=None if head_dim * heads == hidden else head_dim,
        max_positions=settings.get("n_positions", 512),
        positions="relative",
        attention_scale=1.0,
        norm_eps=settings.get("layer_norm_epsilon", 1e-6),
        activation=activation,
        gated=gated,
        tie_embeddings=tied,
        encoder_decoder=EncoderDecoderConfig(
            num_encoder_layers=layers,
            relative_buckets=settings.get("relative_attention_num_buckets", 32),
            relative_distance=settings.get("relative_attention_max_distance", 128),
            head_scale=hidden**-0.5 if tied else None,
            start_id=settings.get("decoder_start_token_id", settings.get("pad_token_id", 0)),
            forced_id=settings.get("forced_bos_token_id"),
        ),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    sizes = config.encoder_decoder
    forced = {} if sizes.forced_id is None else {"forced_bos_token_id": sizes.forced_id}
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_ff": config.intermediate_size,
        "d_kv": config.head_size,
        "d_model": config.hidden_size,
        "decoder_start_token_id": sizes.start_id,
        "dropout_rate": 0.0,
        "feed_forward_proj": TO_FEED_FORWARD[config.activation, config.gated],
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": config.norm_eps,
        "n_positions": config.max_positions,
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_layers": sizes.num_encoder_layers,
        "relative_attention_max_distance": sizes.relative_distance,
        "relative_attention_num_buckets": sizes.relative_buckets,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        **forced,
    }


def _attention(theirs: str, ours: str) -> list[Tensor]:
    names = {"q": "query", "k": "key", "v": "value"}
    return [
        *(one(f"{theirs}.{short}.weight", f"{ours}.{name}.kernel", LINEAR) for short, name in names.items()),
        one(f"{theirs}.o.weight", f"{ours}.output.kernel", OUTPUT),
    ]


def _feed_forward(theirs: str, gated: bool) -> list[Tensor]:
    into = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
    names = into | {"wo": "down"}
    return [one(f"{theirs}.{short}.weight", f"mlp.{name}.kernel", LINEAR) for short, name in names.items()]


def tensors(config: ModelConfig) -> list[Tensor]:
    encoder = [
        one("0.layer_norm.weight", "attention_norm.weight"),
        *_attention("0.SelfAttention", "attention"),
        one("1.layer_norm.weight", "mlp_norm.weight"),
        *_feed_forward("1.DenseReluDense", config.gated),
    ]
    decoder = [
        one("0.layer_norm.weight", "attention_norm.weight"),
        *_attention("0.SelfAttention", "attention"),
        one("1.layer_norm.weight", "cross_norm.weight"),
        *_attention("1.EncDecAttention", "cross"),
        one("2.layer_norm.weight", "mlp_norm.weight"),
        *_feed_forward("2.DenseReluDense", config.gated),
    ]
    found = [one("shared.weight", "embed.embedding")]
    stacks = {"encoder": (encoder, config.encoder_decoder.num_encoder_layers), "decoder": (decoder, config.num_layers)}
    for side, (layer, count) in stacks.items():
        found += [
            one(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{side}.bias.table"),
            *repeated(layer, f"{side}.block.{{}}.layer.", f"{side}.layers.", range(count)),
            one(f"{side}.final_layer_norm.weight", f"{side}.norm.weight"),
        ]
    return found if config.tie_embeddings else [*found, one("lm_head.weight", "head.kernel", LINEAR)]


def copies(config: ModelConfig) -> dict[str, str]:
    tables = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    return dict.fromkeys([*tables, "lm_head.weight"] if config.tie_embeddings else tables, "shared.weight")


# Written by old versions, read by none.
UNUSED = (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)
FAMILY = Family("t5", ("t5",), from_huggingface, to_huggingface, tensors, UNUSED, copies=copies)
