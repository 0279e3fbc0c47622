"""Routers' biases: moved against uneven loads, and by nothing else (Wang et al. 2024; DeepSeek-V3, section 2.1.2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maxllm.models.router import RouterBias


def balanced(optimizer: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """`optimizer` for all parameters but routers' biases; those go `rate` · sign(mean load - load) a step.

    Their gradient is load - mean load, in choices of the whole batch (maxllm/models/router.py). No schedule, decay,
    moments or clipping touches them, and they are in no norm of gradients.
    """

    def init(parameters: Any) -> Any:
        return optimizer.init(without_biases(parameters))

    def update(gradients: Any, state: Any, parameters: Any = None) -> tuple[Any, Any]:
        biases, rest = nnx.split_state(gradients, RouterBias, ...)
        updates, state = optimizer.update(rest, state, without_biases(parameters))
        return nnx.merge_state(jax.tree.map(lambda load: -rate * jnp.sign(load), biases), updates), state

    return optax.GradientTransformation(init, update)


def without_biases(parameters: Any) -> Any:
    """Parameters, or their gradients, that a loss has to do with."""
    return nnx.split_state(parameters, RouterBias, ...)[1] if isinstance(parameters, nnx.State) else parameters
