"""What the families with experts share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maxllm.config.model import ModelConfig
from maxllm.convert.families import llama
from maxllm.convert.family import Settings
from maxllm.convert.tensors import LINEAR, Tensor, one, repeated

PROJECTIONS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}  # ours: theirs


def balance_loss(settings: Settings) -> float:
    """transformers adds the loss where it was told to return the router's logits."""
    return settings.get("router_aux_loss_coef", 0.001) if settings.get("output_router_logits") else 0.0


def balance_words(config: ModelConfig) -> dict[str, Any]:
    asked = config.routing.balance_loss
    return {"output_router_logits": asked > 0, "router_aux_loss_coef": asked or 0.001}


def dense_layers(settings: Settings) -> int:
    """Of Qwen's two ways to name layers without experts, those that come first; others we do not compute."""
    settings.only("decoder_sparse_step", 1)
    dense = settings.get("mlp_only_layers", [])
    if sorted(dense) != list(range(len(dense))):
        raise settings.refused(f"mlp_only_layers {dense} are not the first ones, and ours without experts are")
    return len(dense)


def qwen_routing(settings: Settings, expert_size: int) -> dict[str, Any]:
    """What Qwen 2 and 3 say alike of `routing`; `expert_size` when they do not."""
    return {
        "expert_size": settings.get("moe_intermediate_size", expert_size),
        "normalise": settings.get("norm_topk_prob", False),
        "dense_layers": dense_layers(settings),
        "balance_loss": balance_loss(settings),
    }


def qwen_words(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.routing.expert_size or config.intermediate_size,
        "norm_topk_prob": config.routing.normalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(range(config.routing.dense_layers)),
        "use_sliding_window": False,
        **balance_words(config),
    }


def tensors(
    config: ModelConfig,
    feed_forward: list[Tensor],
    name: str = "mlp.experts.{}.",
    projections: dict[str, str] = PROJECTIONS,
    attention: Callable[[ModelConfig], list[Tensor]] = llama.attention,
) -> list[Tensor]:
    """The map of a decoder whose first layers may be dense. `feed_forward`: of one layer with experts, but for them."""
    first, layers = config.leading_layers, range(config.leading_layers, config.num_layers)
    shared = [*attention(config), *llama.NORMS]
    return [
        *llama.ends(config),
        *repeated([*shared, *llama.MLP], "model.layers.{}.", "leading.", range(first)),
        *repeated([*shared, *feed_forward], "model.layers.{}.", "layers.", layers),
        *of_experts(config, "layers.mlp.", layers, name, projections),
    ]


def of_experts(
    config: ModelConfig,
    path: str,
    layers: range,
    name: str = "mlp.experts.{}.",
    projections: dict[str, str] = PROJECTIONS,
) -> list[Tensor]:
    """Theirs is a matrix for each layer and expert."""
    own = [one(f"{theirs}.weight", ours, LINEAR) for ours, theirs in projections.items()]
    return repeated(own, "model.layers.{}." + name, path, layers, range(config.num_experts))


def shared_experts(name: str) -> list[Tensor]:
    """Those that every token goes through, `name` theirs."""
    return [
        one(f"mlp.{name}.{theirs}.weight", f"mlp.shared.{ours}.kernel", LINEAR) for ours, theirs in PROJECTIONS.items()
    ]
