"""DeBERTa (He et al. 2020), version 1 of its code."""

from __future__ import annotations

import re
from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import encoder_parts as parts
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import FLAT, LINEAR, Layout, Tensor, joined, one

HEADS = {"ForMaskedLM": "words"}
WORDS = "lm_predictions.lm_head"
BIAS = f"{WORDS}.bias"
# Two names for one head: transformers' own first one (`legacy`), which published folders do not hold, and theirs.
_LEGACY = re.compile(r"cls\.predictions\.(transform\.)?(?!decoder)")


def common(settings: Settings, family: str, **encoder: Any) -> ModelConfig:
    """What versions 1 and 2 share; `encoder`: the rest of our section of that name."""
    hidden, positions = settings["hidden_size"], settings.get("max_position_embeddings", 512)
    if not settings.get("relative_attention", False):
        raise settings.refused("relative_attention is false, and that model is a BERT with other names")
    if settings.get("position_biased_input", True):
        raise settings.refused("position_biased_input is true, and we compute absolute positions at the end only")
    kinds = settings.get("pos_att_type", [])
    if sorted(kinds.split("|") if isinstance(kinds, str) else kinds) != ["c2p", "p2c"]:
        raise settings.refused(f"pos_att_type {kinds!r} is not c2p and p2c, which together are all that we compute")
    settings.only("embedding_size", hidden)
    settings.only("pooler_hidden_size", hidden)
    settings.only("pooler_hidden_act", "gelu")
    furthest = settings.get("max_relative_positions", -1)
    encoder |= {
        "type_vocab_size": settings.get("type_vocab_size", 0),
        "relative_positions": furthest if furthest > 0 else positions,
        # A key of our own: transformers has the decoder's layers (`z_steps`), and no way to ask for them.
        "mask_decoder_layers": settings.get("mask_decoder_layers", 0),
    }
    return parts.from_settings(settings, family, HEADS, hidden="gelu", encoder=encoder, positions="disentangled")


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.only("talking_head", False)
    return common(settings, "deberta", key_bias=False)


def to_common(config: ModelConfig, prefix: str) -> dict[str, Any]:
    encoder = config.encoder
    values = {
        **parts.to_settings(config, prefix, HEADS),
        "legacy": False,
        "max_relative_positions": encoder.relative_positions,
        "pooler_dropout": 0.0,
        "pooler_hidden_act": "gelu",
        "pooler_hidden_size": config.hidden_size,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "relative_attention": True,
    }
    return values | ({"mask_decoder_layers": encoder.mask_decoder_layers} if encoder.mask_decoder_layers else {})


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {"model_type": "deberta", **to_common(config, "Deberta")}


# [embed, heads, head_dim] and [heads, head_dim, embed]: queries, keys and values of a head lie together.
_BY_HEAD = Layout(
    lambda ours: (ours[1], ours[2], ours[0]),
    lambda array: array.transpose(1, 2, 0),
    lambda tensor, ours: tensor.transpose(2, 0, 1),
)


def tensors(config: ModelConfig) -> list[Tensor]:
    whole = (3 * config.num_heads * config.head_size, config.hidden_size)
    kernels = [(f"attention.{name}.kernel", _BY_HEAD) for name in ("query", "key", "value")]
    attention = [
        joined("attention.self.in_proj.weight", kernels, axis=1, shape=whole),
        one("attention.self.q_bias", "attention.query.bias", FLAT),
        one("attention.self.v_bias", "attention.value.bias", FLAT),
        one("attention.self.pos_proj.weight", "attention.position_key.kernel", LINEAR),
        *parts.dense("attention.self.pos_q_proj", "attention.position_query"),
    ]
    return [*parts.body(config, "deberta", attention), *around(config)]


def around(config: ModelConfig) -> list[Tensor]:
    """The table of distances and the heads, which versions 1 and 2 share."""
    found = [one("deberta.encoder.rel_embeddings.weight", "relative.embedding")]
    if config.labels is None:
        found += parts.words(f"{WORDS}.dense", f"{WORDS}.LayerNorm", BIAS)
    return found + parts.label_head(config, "pooler.dense", "classifier", "classifier")


def canonical(name: str) -> str:
    return _LEGACY.sub(f"{WORDS}.", parts.renamed(name, "deberta"))


def copies(config: ModelConfig) -> dict[str, str]:
    if config.labels:
        return {}
    decoder = "cls.predictions.decoder"
    return {f"{decoder}.weight": "deberta.embeddings.word_embeddings.weight", f"{decoder}.bias": BIAS}


# As transformers: of the first training, the positions of its mask decoder and the heads.
IGNORED = (
    *parts.BUFFERS,
    r"deberta\.embeddings\.position_embeddings\.weight",
    r"(lm_predictions|mask_predictions|cls|pooler)\..*",
)

FAMILY = Family("deberta", ("deberta",), from_huggingface, to_huggingface, tensors, IGNORED, canonical, copies)
