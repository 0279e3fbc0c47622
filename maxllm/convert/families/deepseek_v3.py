"""DeepSeek-V3 and R1 (DeepSeek-AI 2024): latent attention, groups of experts, a module that predicts one token further.

Their rotary dimensions lie in pairs (2i, 2i + 1), ours in halves (i, i + width / 2): permuted here, in queries and keys
alike, so that scores are the same. The further predicting modules lie behind the last layer, as layers of their own
with copies of the embedding and the head; transformers leaves them unread, and so may a folder leave them out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.convert import rope
from maxllm.convert.families import experts, llama
from maxllm.convert.family import Family, Settings
from maxllm.convert.safetensors_io import TensorFolder
from maxllm.convert.tensors import LINEAR, OUTPUT, Layout, Tensor, changed, joined, one, repeated

DEFAULTS = {"max_position_embeddings": 4096}


def from_huggingface(settings: Settings) -> ModelConfig:
    settings.only("attention_bias", False)
    settings.only("rope_interleave", True)
    settings.only("scoring_func", "sigmoid")
    settings.only("topk_method", "noaux_tc")
    settings.only("moe_layer_freq", 1)
    size = settings.get("moe_intermediate_size", 2048)
    latent = {
        "query_rank": settings.values.get("q_lora_rank", 1536),  # null says: none
        "rank": settings.get("kv_lora_rank", 512),
        "nope_dim": settings.get("qk_nope_head_dim", 128),
        "rope_dim": settings.get("qk_rope_head_dim", 64),
        "value_dim": settings.get("v_head_dim", 128),
    }
    return ModelConfig(
        family="deepseek_v3",
        latent_attention=latent,
        num_experts=settings.get("n_routed_experts", 256),
        experts_per_token=settings.get("num_experts_per_tok", 8),
        prediction_layers=_modules(settings),
        routing={
            "scores": "sigmoid",
            "bias": True,
            "expert_size": size,
            "shared_size": size * settings.get("n_shared_experts", 1),
            "dense_layers": settings.get("first_k_dense_replace", 3),
            "normalise": settings.get("norm_topk_prob", True),
            "scale": settings.get("routed_scaling_factor", 2.5),
            "groups": settings.get("n_group", 8),
            "groups_per_token": settings.get("topk_group", 4),
        },
        **llama.shape(settings, **DEFAULTS) | {"head_dim": None},
        **rope.from_huggingface(settings),
    )


def _modules(settings: Settings) -> int:
    """As many as config.json counts, unless the folder beside it is without: so transformers writes them."""
    count = settings.get("num_nextn_predict_layers", 0)
    try:
        there = f"model.layers.{settings['num_hidden_layers']}.eh_proj.weight" in TensorFolder(
            Path(settings.where).parent
        )
    except UserError:  # no folder, or a broken one, of which more is said when its numbers are read
        return count
    return count if there else 0


def to_huggingface(config: ModelConfig) -> dict[str, Any]:
    routing, latent = config.routing, config.latent_attention
    if latent is None:
        raise UserError("model.latent_attention is not set; a model.family deepseek_v3 cannot be exported without")
    size = routing.expert_size or config.intermediate_size
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **llama.words(config),
        "attention_bias": False,
        "first_k_dense_replace": routing.dense_layers,
        "head_dim": latent.rope_dim,
        "kv_lora_rank": latent.rank,
        "moe_intermediate_size": size,
        "moe_layer_freq": 1,
        "n_group": routing.groups,
        "n_routed_experts": config.num_experts,
        "n_shared_experts": routing.shared_size // size,
        "norm_topk_prob": routing.normalise,
        "num_experts_per_tok": config.experts_per_token,
        "num_nextn_predict_layers": config.prediction_layers,
        "q_lora_rank": latent.query_rank,
        "qk_nope_head_dim": latent.nope_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "rope_interleave": True,
        "routed_scaling_factor": routing.scale,
        "scoring_func": "sigmoid",
        "topk_group": routing.groups_per_token,
        "topk_method": "noaux_tc",
        "v_head_dim": latent.value_dim,
        **rope.to_huggingface(config.rope_theta, config.rope_scaling),
    }


def in_pairs(layout: Layout, width: int) -> Layout:
    """`layout` of our array whose last `width` numbers of the last axis turn in halves; theirs turn in pairs."""

    def turned(array: np.ndarray, split: tuple[int, int]) -> np.ndarray:
        rest, turning = array[..., :-width], array[..., -width:]
        moved = turning.reshape(*turning.shape[:-1], *split).swapaxes(-1, -2).reshape(turning.shape)
        return np.concatenate([rest, moved], axis=-1)

    return changed(layout, lambda ours: turned(ours, (2, width // 2)), lambda theirs: turned(theirs, (width // 2, 2)))


# Ours [rank, heads, width], theirs [heads, width, rank].
BY_HEAD = Layout(
    lambda ours: (ours[1], ours[2], ours[0]),
    lambda array: array.transpose(1, 2, 0),
    lambda tensor, ours: tensor.transpose(2, 0, 1),
)


def attention(config: ModelConfig) -> list[Tensor]:
    """Of one layer."""
    latent = config.latent_attention
    query = one("self_attn.q_proj.weight", "attention.query.kernel", in_pairs(LINEAR, latent.rope_dim))
    queries = [query]
    if latent.query_rank:
        queries = [
            one("self_attn.q_a_proj.weight", "attention.query_down.kernel", LINEAR),
            one("self_attn.q_a_layernorm.weight", "attention.query_norm.weight"),
            one("self_attn.q_b_proj.weight", "attention.query.kernel", in_pairs(LINEAR, latent.rope_dim)),
        ]
    down = [("attention.down.kernel", LINEAR), ("attention.key_rope.kernel", in_pairs(LINEAR, latent.rope_dim))]
    up = [("attention.key_up.kernel", BY_HEAD), ("attention.value_up.kernel", BY_HEAD)]
    rows = config.num_heads * (latent.nope_dim + latent.value_dim)
    return [
        *queries,
        joined("self_attn.kv_a_proj_with_mqa.weight", down),
        one("self_attn.kv_a_layernorm.weight", "attention.norm.weight"),
        joined("self_attn.kv_b_proj.weight", up, axis=1, shape=(rows, latent.rank)),
        one("self_attn.o_proj.weight", "attention.output.kernel", OUTPUT),
    ]


FEED_FORWARD = [
    one("mlp.gate.weight", "mlp.router.kernel", LINEAR),
    one("mlp.gate.e_score_correction_bias", "mlp.router.bias"),
    *experts.shared_experts("shared_experts"),
]
# Of one module that predicts further, but for its layer.
AROUND = [
    one("enorm.weight", "prediction.embedding_norm.weight"),
    one("hnorm.weight", "prediction.hidden_norm.weight"),
    one("eh_proj.weight", "prediction.project.kernel", LINEAR),
    one("shared_head.norm.weight", "prediction.norm.weight"),
]


def _behind(config: ModelConfig) -> range:
    return range(config.num_layers, config.num_layers + config.prediction_layers)


def tensors(config: ModelConfig) -> list[Tensor]:
    layer, behind = [*attention(config), *llama.NORMS, *FEED_FORWARD], _behind(config)
    return [
        *experts.tensors(config, FEED_FORWARD, attention=attention),
        *repeated(AROUND, "model.layers.{}.", "", behind),
        *repeated(layer, "model.layers.{}.", "prediction.block.", behind),
        *experts.of_experts(config, "prediction.block.mlp.", behind),
    ]


def copies(config: ModelConfig) -> dict[str, str]:
    found = llama.tied(config)
    for number in _behind(config):
        found[f"model.layers.{number}.embed_tokens.weight"] = "model.embed_tokens.weight"
        head = "model.embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
        found[f"model.layers.{number}.shared_head.head.weight"] = head
    return found


FAMILY = Family(
    "deepseek_v3", ("deepseek_v3",), from_huggingface, to_huggingface, tensors, llama.ROTARY_BUFFERS, copies=copies
)
