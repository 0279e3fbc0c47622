"""The table of families: by config.json's `model_type`, and by our `model.family`."""

from __future__ import annotations

from maxllm.config.errors import UserError
from maxllm.convert.families import (
    bart,
    bert,
    deberta,
    deberta_v2,
    deepseek_v3,
    electra,
    gemma,
    gemma2,
    gemma3,
    gpt1,
    gpt2,
    llama,
    mistral,
    mixtral,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    roberta,
    t5,
    transformer,
    unknown,
)
from maxllm.convert.family import Family, Settings

FAMILIES: tuple[Family, ...] = (
    bart.FAMILY,
    bert.FAMILY,
    deberta.FAMILY,
    deberta_v2.FAMILY,
    deepseek_v3.FAMILY,
    electra.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    gpt1.FAMILY,
    gpt2.FAMILY,
    llama.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    qwen2.FAMILY,
    qwen2_moe.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    roberta.FAMILY,
    t5.FAMILY,
    transformer.FAMILY,
)


def by_model_type(settings: Settings) -> Family:
    """The family of a config.json. Raises UserError for one that we do not have."""
    model_type = settings.get("model_type")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    supported = sorted(name for family in FAMILIES for name in family.model_types)
    hint = unknown.nearest(str(model_type), supported)
    raise UserError(
        f"{settings.where}: model_type {model_type!r} is not supported{hint}; supported: {', '.join(supported)}"
    )


def by_name(name: str) -> Family:
    """The family of `model.family`. Raises UserError for one that has no Hugging Face layout here."""
    for family in FAMILIES:
        if family.name == name:
            return family
    supported = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"model.family {name} has no Hugging Face folders here; those that have: {supported}")
