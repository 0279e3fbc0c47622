"""Positions that are no rotation: sinusoids added to embeddings, ALiBi's slopes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np


def sinusoidal(positions: jax.Array, size: int) -> jax.Array:
    """Vaswani et al. 2017, section 3.5: sin(position / 10000^(2i / size)) in dimension 2i, cos of it in 2i + 1.

    Float32 `[*positions.shape, size]`; `size` is even.
    """
    frequencies = jnp.asarray(10000.0 ** (-np.arange(0, size, 2) / size), jnp.float32)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, size)


def alibi_slopes(heads: int) -> np.ndarray:
    """Press et al. 2022, section 3: a geometric sequence from 2^(-8 / heads) in float64 `[heads]`.

    Where `heads` is no power of 2, as in the authors' code: those of the power below, and after them every second one
    of the power above.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8 / below * np.arange(1, below + 1))
    between = 2.0 ** (-4 / below * np.arange(1, 2 * below + 1, 2))
    return np.concatenate([slopes, between[: heads - below]])


def alibi_bias(distances: jax.Array, heads: int) -> jax.Array:
    """Float32 `[heads, *distances.shape]`: minus slope times distance, in either direction."""
    slopes = jnp.asarray(alibi_slopes(heads), jnp.float32)
    return -slopes.reshape(-1, *[1] * distances.ndim) * jnp.abs(distances).astype(jnp.float32)
