"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases on queries, keys and values."""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import llama, windows
from maxllm.convert.family import Family, Settings

DEFAULTS = {"max_position_embeddings": 32768}


def window(settings: Settings) -> dict[str, Any]:
    """Where `use_sliding_window` is set, layers from `max_window_layers` on have one; by `layer_types` since 2025."""
    if not settings.get("use_sliding_window"):
        return {}
    layers = settings["num_hidden_layers"]
    first = settings.get("max_window_layers", 28)
    kinds = [windows.LOCAL if i >= first else windows.WHOLE for i in range(layers)]
    return windows.from_layers(
        settings, settings.get("layer_types", kinds), settings.values.get("sliding_window", 4096), 0
    )


def refuse(settings: Settings) -> None:
    if settings.get("dual_chunk_attention_config"):
        raise settings.refused(
            "dual_chunk_attention_config is not read (transformers ignores it too); take it out, and set "
            "model.dual_chunk yourself"
        )
    settings.only("use_mrope", False)


def window_words(config: ModelConfig) -> dict[str, Any]:
    kinds = windows.kinds_of(config)
    return {
        "layer_types": kinds,
        "max_window_layers": kinds.index(windows.LOCAL) if windows.LOCAL in kinds else config.num_layers,
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
    }


def from_huggingface(settings: Settings) -> ModelConfig:
    refuse(settings)
    return ModelConfig(
        family="qwen2",
        biases=("query_key_value",),
        **window(settings),
        **llama.shape(settings, **DEFAULTS),
        **rope.from_huggingface(settings),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **llama.words(config),
        **window_words(config),
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


FAMILY = Family(
    "qwen2", ("qwen2",), from_huggingface, to_huggingface, llama.tensors, llama.ROTARY_BUFFERS, copies=llama.tied
)
