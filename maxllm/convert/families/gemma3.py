"""Gemma 3 (Gemma Team 2025), its text: norms of queries and keys, every sixth layer sees everything, by rotary
positions of its own.

Of a folder that sees pictures too (`model_type` gemma3, all but the smallest size) the text model is taken, and the
vision tower left where it is: for text, that is the same model. Exports are text models (gemma3_text).
"""

from __future__ import annotations

from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import gemma2, llama, windows
from maxllm.convert.family import Family, Settings

DEFAULTS = {"max_position_embeddings": 131072}
# Those of transformers' Gemma3TextConfig: the published folders of the larger sizes leave them out.
TEXT_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
}
VISION = (r"vision_tower\..*", r"multi_modal_projector\..*")


def from_huggingface(settings: Settings) -> ModelConfig:
    if settings["model_type"] == "gemma3":
        settings.unquantized()
        text = {name: value for name, value in settings["text_config"].items() if value is not None}
        tied = settings.get("tie_word_embeddings", True)
        settings = Settings(TEXT_DEFAULTS | {"tie_word_embeddings": tied} | text, settings.where)
    every = settings.get("sliding_window_pattern", settings.get("_sliding_window_pattern", 6))
    kinds = settings.get("layer_types", windows.kinds(settings["num_hidden_layers"], every))
    return ModelConfig(
        family="gemma3",
        query_key_norm=True,
        attention_softcap=settings.get("attn_logit_softcapping"),
        logits_softcap=settings.get("final_logit_softcapping"),
        **windows.from_layers(settings, kinds, settings.values.get("sliding_window", 4096), every),
        **gemma2.shape(settings, **DEFAULTS),
        **_rope(settings),
    )


def _rope(settings: Settings) -> dict[str, Any]:
    """Two rotary positions: transformers 5 writes one dictionary for each kind of layer."""
    both = settings.get("rope_parameters", {})
    whole, local = both.get(windows.WHOLE) or {}, both.get(windows.LOCAL) or {}
    if rope.scaling_of(settings, local):
        raise settings.refused("layers with a window have scaled rotary positions, and ours do not")
    values = dict(settings.values) | {"rope_parameters": whole}
    thetas = [settings.get("rope_local_base_freq"), local.get("rope_theta")]
    told = {theta for theta in thetas if theta is not None}
    if len(told) > 1:
        raise settings.refused(f"rope_local_base_freq is {thetas[0]}, and {thetas[1]} in rope_parameters")
    fields = rope.from_huggingface(Settings(values, settings.where), 1_000_000.0)
    return fields | {"rope_local_theta": float(told.pop()) if told else 10000.0}


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    local = config.rope_theta if config.rope_local_theta is None else config.rope_local_theta
    scaling = rope.scaling_to(config.rope_scaling)
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        **gemma2.words(config),
        "rope_theta": config.rope_theta,
        "rope_local_base_freq": local,
        "rope_scaling": scaling if config.rope_scaling else None,
        "rope_parameters": {
            windows.WHOLE: {"rope_theta": config.rope_theta, **scaling},
            windows.LOCAL: {"rope_theta": local, "rope_type": "default"},
        },
        "sliding_window_pattern": config.global_every or 10**6,
    }


def canonical(name: str) -> str:
    """In a folder that sees pictures, names begin with `model.language_model.` or `language_model.model.`."""
    name = name.removeprefix("model.") if name.startswith(("model.vision_tower.", "model.multi_modal")) else name
    name = name.replace("model.language_model.", "model.", 1).removeprefix("language_model.")
    return name


FAMILY = Family(
    "gemma3",
    ("gemma3_text", "gemma3"),
    from_huggingface,
    to_huggingface,
    gemma2.tensors,
    (*llama.ROTARY_BUFFERS, *VISION),
    canonical,
    llama.tied,
)
