"""Rotary position embedding (Su et al. 2021)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maxllm.config.model_parts import RopeScalingConfig


class Rotation(NamedTuple):
    """Cosine and sine of each position's angles, float32 `[batch, length, 1, head_dim]`."""

    cos: jax.Array
    sin: jax.Array


def rotation(positions: jax.Array, head_dim: int, theta: float, scaling: RopeScalingConfig | None = None) -> Rotation:
    """Angles `position · theta^(-2i / head_dim)`, for `positions` int32 `[batch, length]`.

    Hugging Face's half-split convention: dimension i turns with dimension i + head_dim / 2, so that converting
    a checkpoint transposes its matrices and permutes nothing. Always float32: bfloat16 cannot tell position 257
    from 258.
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions.astype(jnp.float32)[..., None, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return Rotation(jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1))


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """`x` `[batch, length, heads, head_dim]`, each pair (i, i + head_dim / 2) turned by its position's angle."""
    wide = x.astype(jnp.float32)
    return (wide * by.cos + jnp.roll(wide, x.shape[-1] // 2, axis=-1) * by.sin).astype(x.dtype)
