"""The registry: an OptimizerConfig becomes an Optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from maxllm.config.sparsity import SparsityConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.optim.rounding import moments_in_bfloat16
from maxllm.optim.router_bias import balanced
from maxllm.optim.schedules import make_schedule
from maxllm.optim.sparsity import sparse


def decays(parameters: Any) -> Any:
    """True for each parameter that weight decay pulls on: every matrix and the embedding, not biases, not the norms'
    weights, nor small tables (of positions).

    Decided by logical axes and not by rank: a stacked norm weight is `[layers, embed]` and still no matrix. The
    embedding decays as in GPT-2, Llama and nanoGPT. Biases do not, as in BERT and GPT-2.
    """

    def decay(path: tuple[Any, ...], parameter: Any) -> bool:
        name, axes = path[-1].key, parameter.get_metadata("axes")
        return name != "bias" and ("norm" not in axes or (name == "kernel" and "embed" in axes))

    return jax.tree_util.tree_map_with_path(decay, parameters, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def _adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Loshchilov and Hutter 2019."""
    return optax.adamw(
        schedule, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay, mask=decays
    )


OPTIMIZERS: dict[str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]] = {"adamw": _adamw}


def make_optimizer(
    config: OptimizerConfig,
    schedule: ScheduleConfig,
    steps: int,
    sparsity: SparsityConfig | None = None,
    *,
    bias_rate: float = 0.0,
) -> optax.GradientTransformation:
    """Clip by global norm, then the optimizer named in `config`, over a run of `steps`; around both, `sparsity`.

    `bias_rate`: of routers' biases (RoutingConfig), which go their own way.
    """
    optimizer = OPTIMIZERS[config.name](config, make_schedule(schedule, config.learning_rate, steps))
    if config.moments_dtype == "bfloat16":
        optimizer = moments_in_bfloat16(optimizer)
    if config.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if sparsity and sparsity.name != "none":
        optimizer = sparse(optimizer, sparsity, steps)
    if bias_rate:
        optimizer = balanced(optimizer, bias_rate)
    return optimizer
