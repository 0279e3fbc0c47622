"""Llama's `config.json` and our `ModelConfig`, each from the other; what we cannot compute is refused, not ignored."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig

REQUIRED = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
}


def to_huggingface(config: ModelConfig, *, dtype: str, token_ids: dict[str, int | None]) -> dict[str, Any]:
    """`config.json`'s content, in the words both transformers 4 and 5 read. `token_ids`: bos, eos, pad.

    Raises UserError for a model that a Llama cannot be.
    """
    if config.num_experts:
        raise UserError(f"model.num_experts {config.num_experts}: a mixture of experts cannot be exported yet")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.init_std,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "mlp_bias": False,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": config.norm_eps,
        # transformers 4 and most servers read the first, transformers 5 the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        **{f"{name}_token_id": value for name, value in token_ids.items()},
    }


def from_huggingface(values: dict[str, Any], where: str) -> ModelConfig:
    """Our config for `config.json`'s `values`; `where` names the file in errors. Raises UserError."""
    model_type = values.get("model_type")
    if model_type != "llama":
        raise UserError(f"{where}: model_type {model_type!r} is not supported; supported: llama")
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing; a Llama's shape cannot be known without")
    _refuse_what_we_do_not_compute(values, where)
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    kv_heads, head_dim = values.get("num_key_value_heads"), values.get("head_dim")
    fields = {ours: values[theirs] for theirs, ours in REQUIRED.items()} | {
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "head_dim": None if head_dim is None or head_dim * heads == hidden else head_dim,
        # The defaults of transformers' LlamaConfig, which writes no field that equals them in older versions.
        "max_positions": values.get("max_position_embeddings", 2048),
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "rope_theta": _rope_theta(values, where),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "init_std": values.get("initializer_range", 0.02),
    }
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {place + ': ' if place else ''}{reason}") from None


def _refuse_what_we_do_not_compute(values: dict[str, Any], where: str) -> None:
    for name in ("attention_bias", "mlp_bias"):
        if values.get(name):
            raise UserError(f"{where}: {name} is true, and our decoder has no biases; this model cannot be imported")
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UserError(f"{where}: hidden_act {values['hidden_act']!r} is not supported; our decoder computes silu")
    if values.get("quantization_config"):
        raise UserError(f"{where}: the weights are quantized (quantization_config); import the unquantized model")
    for name in ("rope_scaling", "rope_parameters"):
        rope = values.get(name) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UserError(
                f"{where}: {name} of type {kind!r} (scaled rotary positions, as in Llama 3.1 and later) is not "
                "supported yet; ignoring it would change the model's answers, so nothing was imported"
            )
    for place in (values, values.get("rope_parameters") or {}):
        if place.get("partial_rotary_factor", 1.0) != 1.0:
            raise UserError(f"{where}: partial_rotary_factor {place['partial_rotary_factor']} is not supported")


def _rope_theta(values: dict[str, Any], where: str) -> float:
    new, old = (values.get("rope_parameters") or {}).get("rope_theta"), values.get("rope_theta")
    if new is not None and old is not None and new != old:
        raise UserError(f"{where}: rope_theta is {old} and rope_parameters.rope_theta is {new}; which is meant?")
    return float(next((value for value in (new, old) if value is not None), 10000.0))
