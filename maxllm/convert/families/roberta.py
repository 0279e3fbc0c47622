"""RoBERTa (Liu et al. 2019)."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import encoder_parts as parts
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import Tensor

HEADS = {"ForMaskedLM": "words"}


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.only("hidden_act", "gelu")  # the head's, whatever the layers' is
    # Positions count from the one after padding's, as in fairseq.
    offset = settings.get("pad_token_id", 1) + 1
    encoder = {"type_vocab_size": settings.get("type_vocab_size", 2), "position_offset": offset}
    length = settings.get("max_position_embeddings", 512) - offset
    return parts.from_settings(settings, "roberta", HEADS, hidden="tanh", encoder=encoder, max_positions=length)


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    values = parts.to_settings(config, "Roberta", HEADS)
    return {"model_type": "roberta", "pad_token_id": config.encoder.position_offset - 1, **values}


def tensors(config: ModelConfig) -> list[Tensor]:
    found = parts.body(config, "roberta")
    if config.labels is None:
        found += parts.words("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    return found + parts.label_head(config, "classifier.dense", "classifier.out_proj", "classifier")


def canonical(name: str) -> str:
    return parts.renamed(name, "roberta", ("embeddings.", "encoder.", "pooler."))


def copies(config: ModelConfig) -> dict[str, str]:
    if config.labels:
        return {}
    return {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }


FAMILY = Family(
    "roberta",
    ("roberta",),
    from_huggingface,
    to_huggingface,
    tensors,
    (*parts.BUFFERS, r"roberta\.pooler\.dense\..*", r"lm_head\..*"),
    canonical,
    copies,
)
