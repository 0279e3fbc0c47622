"""Moments kept in bfloat16: half the memory of an optimizer's state, unbiased because rounding is a coin's toss.

A moment is a running mean: it moves by a small part of itself at each step, and a step smaller than half the distance
between two bfloat16 numbers (2^-9 of the value) is lost when it is rounded to the nearest. With b2 = 0.999 that is
every step of Adam's second moment. Rounding up with the probability of the part that is cut off keeps the expectation
exact (Gupta et al. 2015; Zamirai et al. 2020 for bfloat16).
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def round_to_bfloat16(x: jax.Array, seed: jax.Array) -> jax.Array:
    """One of the two bfloat16 numbers around each float32 element, so that the mean over seeds (uint32) is `x`.

    A bfloat16 is a float32's upper half. Sixteen random bits added to the lower half carry into the upper one with
    the probability lower half / 2^16; then the lower half is cut off. An element rounds by less than 2^-7 of its size.
    What is not finite stays so; beyond the largest bfloat16 there is nothing to round up to.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = _mixed(_mixed(_place(x.shape)) ^ seed) & 0xFFFF
    rounded = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(rounded), rounded, x).astype(jnp.bfloat16)


def _place(shape: tuple[int, ...]) -> jax.Array:
    """A number for each element from its indices, so that each device makes those of its part."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        place = place * jnp.uint32(2654435761) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return place


def _mixed(x: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer (Appleby 2011): every bit of the result depends on every bit of `x`.

    A coin needs no more; jax.random's bits take three times as long to compile here and ten times as long to make.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


class RoundedState(NamedTuple):
    """`count`: updates made, int32. `inner`: the optimizer's state, its float32 arrays as bfloat16."""

    count: jax.Array
    inner: Any


def moments_in_bfloat16(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer`, computing in float32 and keeping its arrays (not its scalars) in bfloat16 between steps.

    The toss depends on the number of updates made, the array's path in the state and the element's place in it: a run
    that was stopped goes on bit for bit, and the mesh does not matter.
    """

    def init(parameters: Any) -> RoundedState:
        # Zeros, or whatever an optimizer begins with: nothing to lose yet.
        inner = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if _is_moment(x) else x, optimizer.init(parameters))
        return RoundedState(jnp.int32(0), inner)

    def update(gradients: Any, state: RoundedState, parameters: Any = None) -> tuple[Any, RoundedState]:
        wide = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, state.inner)
        updates, wide = optimizer.update(gradients, wide, parameters)

        def narrow(path: Any, x: jax.Array) -> jax.Array:
            seed = _mixed(state.count.astype(jnp.uint32) ^ jnp.uint32(zlib.crc32(jax.tree_util.keystr(path).encode())))
            return round_to_bfloat16(x, seed) if _is_moment(x) else x

        return updates, RoundedState(state.count + 1, jax.tree_util.tree_map_with_path(narrow, wide))

    return optax.GradientTransformation(init, update)


def _is_moment(x: jax.Array) -> bool:
    return x.dtype == jnp.float32 and x.ndim > 0
