"""DeBERTa, version 2 of its code: DeBERTa v3 (He et al. 2021)."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import deberta
from maxllm.convert.families import encoder_parts as parts
from maxllm.convert.family import Family, Settings
from maxllm.convert.tensors import Tensor

NORMS = {"none": False, "layer_norm": True}


def from_huggingface(settings: Settings) -> ModelConfig:
    if settings.get("conv_kernel_size", 0) > 0:
        raise settings.refused("conv_kernel_size is not 0, and we compute no convolution (DeBERTa v2's, not v3's)")
    settings.only("attention_head_size", settings["hidden_size"] // settings["num_attention_heads"])
    return deberta.common(
        settings,
        "deberta_v2",
        position_buckets=max(settings.get("position_buckets", -1), 0),
        share_attention=settings.get("share_att_key", False),
        relative_norm=settings.choose("norm_rel_ebd", NORMS, "none"),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    encoder = config.encoder
    return {
        "model_type": "deberta-v2",
        **deberta.to_common(config, "DebertaV2"),
        "norm_rel_ebd": "layer_norm" if encoder.relative_norm else "none",
        "position_buckets": encoder.position_buckets or -1,
        "share_att_key": encoder.share_attention,
    }


def tensors(config: ModelConfig) -> list[Tensor]:
    names = {"query_proj": "query", "key_proj": "key", "value_proj": "value"}
    if not config.encoder.share_attention:
        names |= {"pos_key_proj": "position_key", "pos_query_proj": "position_query"}
    attention = [
        tensor
        for theirs, ours in names.items()
        for tensor in parts.dense(f"attention.self.{theirs}", f"attention.{ours}")
    ]
    found = [*parts.body(config, "deberta", attention), *deberta.around(config)]
    return found + (parts.norm("deberta.encoder.LayerNorm", "relative_norm") if config.encoder.relative_norm else [])


FAMILY = Family(
    "deberta_v2",
    ("deberta-v2",),
    from_huggingface,
    to_huggingface,
    tensors,
    deberta.IGNORED,
    deberta.canonical,
    deberta.copies,
)
