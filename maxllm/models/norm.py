"""Root mean square normalisation (Zhang and Sennrich 2019)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class RMSNorm(nnx.Module):
    """y = x / sqrt(mean(x²) + eps) · weight, over the last axis.

    Statistics in float32 whatever the activations are: a mean of squares in bfloat16 keeps three digits.
    """

    def __init__(self, size: int, *, eps: float):
        self.weight = nnx.Param(jnp.ones(size), axes=("norm",))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * scale * self.weight[...]).astype(x.dtype)
