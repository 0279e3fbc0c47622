"""Rotary position embedding (Su et al. 2021), and how its frequencies are stretched for longer contexts."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxllm.config.model_parts import RopeScalingConfig


class Rotation(NamedTuple):
    """Cosine and sine of each position's angles, float32 `[batch, length, 1, head_dim]`."""

    cos: jax.Array
    sin: jax.Array


def rotation(
    positions: jax.Array,
    head_dim: int,
    theta: float,
    scaling: RopeScalingConfig | None = None,
    max_positions: int | None = None,
) -> Rotation:
    """Angles `position · frequency`, for `positions` int32 `[batch, length]`; see `frequencies` for the others.

    Hugging Face's half-split convention: dimension i turns with dimension i + head_dim / 2, so that converting
    a checkpoint transposes its matrices and permutes nothing. Always float32: bfloat16 cannot tell position 257
    from 258. YaRN's attention factor is in both cosine and sine.
    """
    turns = jnp.asarray(frequencies(head_dim, theta, scaling, max_positions), jnp.float32)
    angles = positions.astype(jnp.float32)[..., None, None] * turns
    factor = attention_factor(scaling)
    cos, sin = factor * jnp.cos(angles), factor * jnp.sin(angles)
    return Rotation(jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1))


def rotate(x: jax.Array, by: Rotation) -> jax.Array:
    """`x` `[batch, length, heads, head_dim]`, each pair (i, i + head_dim / 2) turned by its position's angle."""
    wide = x.astype(jnp.float32)
    return (wide * by.cos + jnp.roll(wide, x.shape[-1] // 2, axis=-1) * by.sin).astype(x.dtype)


def frequencies(
    head_dim: int, theta: float, scaling: RopeScalingConfig | None = None, max_positions: int | None = None
) -> np.ndarray:
    """Angle per position of each pair of dimensions, float64 `[head_dim / 2]`: theta^(-2i / head_dim), scaled.

    Constants of a compiled program, in NumPy. `max_positions` matters to kind "dynamic" alone: the positions that the
    model is to reach (the original ones when None).
    """
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return plain
    if scaling.kind == "linear":  # position interpolation, Chen et al. 2023
        return plain / scaling.factor
    if scaling.kind == "dynamic":
        return _dynamic(head_dim, theta, scaling, max_positions or scaling.original_positions)
    return (_yarn if scaling.kind == "yarn" else _llama3)(plain, head_dim, theta, scaling)


def _dynamic(head_dim: int, theta: float, scaling: RopeScalingConfig, reach: int) -> np.ndarray:
    """NTK-aware scaling by length (Peng et al. 2023, section 3.3 and appendix B.1), for the length `reach`.

    Their theta grows with the sequence, so that the angles of all keys change whenever it grows. Ours is that of the
    longest sequence the model is to reach: else a token's numbers would depend on what it is packed with, and cached
    keys on when they were made.
    """
    longer = scaling.factor * max(reach, scaling.original_positions) / scaling.original_positions - (scaling.factor - 1)
    return (theta * longer ** (head_dim / (head_dim - 2))) ** (-np.arange(0, head_dim, 2) / head_dim)


def _yarn(plain: np.ndarray, head_dim: int, theta: float, scaling: RopeScalingConfig) -> np.ndarray:
    """NTK by parts (Peng et al. 2023, section 3.2): dimensions that turn often within the original positions are left
    as they are, those that never complete a turn are interpolated, with a ramp between.

    The ramp goes by the dimension's index, and its ends are whole numbers, as in the authors' code and not as in the
    paper, where it goes by the number of turns.
    """

    def dimension(turns: float) -> float:
        """The index (not whole) of the pair that turns so often within the original positions."""
        return head_dim * math.log(scaling.original_positions / (2 * math.pi * turns)) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 1e-3), 0, 1)
    return plain * (1 - ramp) + plain / scaling.factor * ramp


def _llama3(plain: np.ndarray, head_dim: int, theta: float, scaling: RopeScalingConfig) -> np.ndarray:
    """Llama 3.1's (in its code, not in its paper): as YaRN with its ramp by number of turns."""
    turns = scaling.original_positions * plain / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return plain * kept + plain / scaling.factor * (1 - kept)


def attention_factor(scaling: RopeScalingConfig | None) -> float:
    """YaRN's, of cosines and sines: the square root of what scores are multiplied by (Peng et al. 2023, section 3.4).

    With DeepSeek's two coefficients, the ratio of theirs.
    """
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)
    return _mscale(scaling.factor)


def _mscale(factor: float, coefficient: float = 1.0) -> float:
    return 0.1 * coefficient * math.log(factor) + 1.0
