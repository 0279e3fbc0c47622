"""ELECTRA (Clark et al. 2020): a generator's folder, or a discriminator's."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import encoder_parts as parts
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import Tensor

HEADS = {"ForMaskedLM": "words", "ForPreTraining": "replaced"}


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.only("hidden_act", "gelu")  # the heads', whatever the layers' is
    hidden, size = settings["hidden_size"], settings.get("embedding_size", 128)
    encoder = {
        "type_vocab_size": settings.get("type_vocab_size", 2),
        "embedding_size": None if size == hidden else size,
    }
    return parts.from_settings(settings, "electra", HEADS, hidden="gelu", encoder=encoder)


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    size = config.encoder.embedding_size or config.hidden_size
    return {"model_type": "electra", "embedding_size": size, **parts.to_settings(config, "Electra", HEADS)}


def tensors(config: ModelConfig) -> list[Tensor]:
    found = parts.body(config, "electra")
    if config.encoder.embedding_size not in (None, config.hidden_size):
        found += parts.dense("electra.embeddings_project", "embedding_projection")
    if config.labels:
        return found + parts.label_head(config, "classifier.dense", "classifier.out_proj", "classifier")
    if config.encoder.head == "replaced":
        head = "discriminator_predictions"
        found += parts.dense(f"{head}.dense", "label_head.dense")
        return found + parts.dense(f"{head}.dense_prediction", "label_head.classes")
    head = "generator_predictions"
    return found + parts.words(f"{head}.dense", f"{head}.LayerNorm", "generator_lm_head.bias")


def canonical(name: str) -> str:
    return parts.renamed(name, "electra", ("embeddings.", "embeddings_project.", "encoder."))


def copies(config: ModelConfig) -> dict[str, str]:
    return {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}


FAMILY = Family(
    "electra",
    ("electra",),
    from_huggingface,
    to_huggingface,
    tensors,
    (*parts.BUFFERS, r"discriminator_predictions\..*", r"generator_.*"),
    canonical,
    copies,
)
