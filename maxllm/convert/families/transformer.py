"""The original Transformer (Vaswani et al. 2017) as a decoder alone, in the layout of OPT (Zhang et al. 2022).

No model of transformers is this one by name. OPT with `do_layer_norm_before: false` computes the same: the table of
sinusoids goes where it has learned positions, zeros where it has biases that ours lacks, and the scaled embeddings go
into a table beside the head. What cannot be read off such a folder again stands in config.json under `maxllm`; an OPT
folder without it holds learned positions, which are another model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from maxllm.config.model import ModelConfig
from maxllm.convert.family import ACTIVATIONS, Family, Settings
from maxllm.convert.tensors import FLAT, LINEAR, OUTPUT, Tensor, one, repeated

OURS = "maxllm"
OFFSET = 2  # rows of OPT's table before position 0
EPS = 1e-5  # OPT's norms have no setting for it
TO_ACTIVATION = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def from_huggingface(settings: Settings) -> ModelConfig:
    ours = settings.get(OURS)
    if ours is None:
        raise settings.refused("an OPT has learned positions with two rows before the first, which ours does not have")
    settings.unquantized()
    settings.only("do_layer_norm_before", False)
    settings.only("layer_norm_elementwise_affine", True)
    hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
    settings.only("word_embed_proj_dim", hidden)
    return ModelConfig(
        family="transformer",
        vocab_size=settings["vocab_size"],
        hidden_size=hidden,
        intermediate_size=settings["ffn_dim"],
        num_layers=settings["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=heads,
        max_positions=settings["max_position_embeddings"],
        positions="sinusoidal",
        norm="layer",
        norm_placement="post",
        norm_eps=EPS,
        activation=settings.choose("activation_function", ACTIVATIONS, "relu"),
        gated=False,
        biases=tuple(ours["biases"]),
        embedding_scale=ours["embedding_scale"],
        tie_embeddings=ours["tie_embeddings"],
        init_std=settings.get("init_std", 0.02),
    )


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": TO_ACTIVATION[config.activation],
        "attention_dropout": 0.0,
        "do_layer_norm_before": False,
        "dropout": 0.0,
        "enable_bias": bool(config.biases),
        "ffn_dim": config.intermediate_size,
        "hidden_size": config.hidden_size,
        "init_std": config.init_std,
        "layer_norm_elementwise_affine": True,
        "layerdrop": 0.0,
        "max_position_embeddings": config.max_positions,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": _one_table(config),
        "use_cache": True,
        "vocab_size": config.vocab_size,
        "word_embed_proj_dim": config.hidden_size,
        OURS: {
            "biases": list(config.biases),
            "embedding_scale": config.embedding_scale,
            "tie_embeddings": config.tie_embeddings,
        },
    }


def _one_table(config: ModelConfig) -> bool:
    return config.tie_embeddings and config.embedding_scale is None


_EMBEDDING, _HEAD = "model.decoder.embed_tokens.weight", "lm_head.weight"
_PROJECTIONS = (("q", "query"), ("k", "key"), ("v", "value"))


def tensors(config: ModelConfig) -> list[Tensor]:
    layer = [
        *(one(f"self_attn.{theirs}_proj.weight", f"attention.{ours}.kernel", LINEAR) for theirs, ours in _PROJECTIONS),
        one("self_attn.out_proj.weight", "attention.output.kernel", OUTPUT),
        one("self_attn_layer_norm.weight", "attention_norm.weight"),
        one("self_attn_layer_norm.bias", "attention_norm.bias"),
        one("fc1.weight", "mlp.up.kernel", LINEAR),
        one("fc2.weight", "mlp.down.kernel", LINEAR),
        one("final_layer_norm.weight", "mlp_norm.weight"),
        one("final_layer_norm.bias", "mlp_norm.bias"),
    ]
    if "query_key_value" in config.biases:
        layer += [one(f"self_attn.{theirs}_proj.bias", f"attention.{ours}.bias", FLAT) for theirs, ours in _PROJECTIONS]
    if "output" in config.biases:
        layer.append(one("self_attn.out_proj.bias", "attention.output.bias"))
    if "mlp" in config.biases:
        layer += [one("fc1.bias", "mlp.up.bias"), one("fc2.bias", "mlp.down.bias")]
    # A scaled table cannot be read back to the bit: where there is a head that equals ours, that is what is read.
    tied = config.tie_embeddings
    words = [one(_EMBEDDING if not tied or _one_table(config) else _HEAD, "embed.embedding")]
    head = [] if tied else [one(_HEAD, "head.kernel", LINEAR)]
    return [*words, *repeated(layer, "model.decoder.layers.{}.", "layers.", range(config.num_layers)), *head]


def scaled(config: ModelConfig) -> dict[str, tuple[str, float]]:
    if config.tie_embeddings and config.embedding_scale is not None:
        return {_EMBEDDING: (_HEAD, config.embedding_scale)}
    return {}


def computed(config: ModelConfig) -> dict[str, Callable[[], np.ndarray]]:
    """Sinusoids, and zeros for the biases that this model lacks where OPT has all or none."""
    made: dict[str, Callable[[], np.ndarray]] = {"model.decoder.embed_positions.weight": lambda: _table(config)}
    if not config.biases:
        return made
    absent = []
    if "query_key_value" not in config.biases:
        absent += [(f"self_attn.{theirs}_proj.bias", config.hidden_size) for theirs, _ in _PROJECTIONS]
    if "output" not in config.biases:
        absent.append(("self_attn.out_proj.bias", config.hidden_size))
    if "mlp" not in config.biases:
        absent += [("fc1.bias", config.intermediate_size), ("fc2.bias", config.hidden_size)]
    for layer in range(config.num_layers):
        for name, size in absent:
            made[f"model.decoder.layers.{layer}.{name}"] = lambda size=size: np.zeros(size, np.float32)
    return made


def _table(config: ModelConfig) -> np.ndarray:
    """maxllm/models/positions.py, section 3.5 of the paper; the rows before position 0 are never looked up."""
    size = config.hidden_size
    frequencies = (10000.0 ** (-np.arange(0, size, 2) / size)).astype(np.float32)
    angles = np.arange(config.max_positions, dtype=np.float32)[:, None] * frequencies
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(config.max_positions, size)
    return np.concatenate([np.zeros((OFFSET, size), np.float32), table])


def tied(config: ModelConfig) -> dict[str, str]:
    return {_HEAD: _EMBEDDING} if _one_table(config) else {}


FAMILY = Family(
    "transformer", ("opt",), from_huggingface, to_huggingface, tensors, copies=tied, computed=computed, scaled=scaled
)
