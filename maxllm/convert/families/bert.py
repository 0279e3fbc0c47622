"""BERT (Devlin et al. 2018)."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import encoder_parts as parts
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import Tensor

HEADS = {"ForMaskedLM": "words", "ForPreTraining": "next_sentence"}
BIAS = "cls.predictions.bias"


def from_huggingface(settings: Settings) -> ModelConfig:
    encoder = {"type_vocab_size": settings.get("type_vocab_size", 2)}
    return parts.from_settings(settings, "bert", HEADS, hidden="tanh", encoder=encoder)


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {"model_type": "bert", **parts.to_settings(config, "Bert", HEADS)}


def tensors(config: ModelConfig) -> list[Tensor]:
    found = parts.body(config, "bert")
    if config.labels is None:
        transform = "cls.predictions.transform"
        found += parts.words(f"{transform}.dense", f"{transform}.LayerNorm", BIAS)
        if config.encoder.head == "next_sentence":
            found += parts.dense("bert.pooler.dense", "label_head.dense")
            found += parts.dense("cls.seq_relationship", "label_head.classes")
    return found + parts.label_head(config, "bert.pooler.dense", "classifier", "classifier")


def canonical(name: str) -> str:
    return parts.renamed(name, "bert", ("embeddings.", "encoder.", "pooler."))


def copies(config: ModelConfig) -> dict[str, str]:
    if config.labels:
        return {}
    decoder = "cls.predictions.decoder"
    return {f"{decoder}.weight": "bert.embeddings.word_embeddings.weight", f"{decoder}.bias": BIAS}


FAMILY = Family(
    "bert",
    ("bert",),
    from_huggingface,
    to_huggingface,
    tensors,
    # Published folders carry the heads of the first training whatever their class says.
    (*parts.BUFFERS, r"bert\.pooler\.dense\..*", r"cls\..*"),
    canonical,
    copies,
)
