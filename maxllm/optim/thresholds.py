"""Which weights are the largest: exactly, however the weights are spread over devices.

No sorting, and nothing is gathered: the threshold is found by bisection over the bits of a float32, which order as the
magnitudes do, with a count over all devices at each of 31 places. Integers add up to the same on every mesh.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Arrays = dict[str, jax.Array]

# A count is high · 2^15 + low: more weights than an int32 counts, in int32, as long as no axis is longer than 2^16.
_BITS = 15


def keep_largest(weights: Arrays, zeros: jax.Array, *, whole: bool) -> Arrays:
    """True for all but the share `zeros` of smallest magnitudes; where several equal the threshold, all are kept.

    `weights`: float32 `[layers, ...]`. The share is that of each array in each layer, or of the `whole`.
    """
    bits = {name: jax.lax.bitcast_convert_type(w, jnp.uint32) & jnp.uint32(0x7FFFFFFF) for name, w in weights.items()}
    if whole:
        thresholds = dict.fromkeys(bits, _threshold(bits, zeros))
    else:
        thresholds = {name: _threshold({name: b}, zeros, axis=0) for name, b in bits.items()}
    return {name: b >= _along_layers(thresholds[name], b) for name, b in bits.items()}


def _threshold(bits: Arrays, zeros: jax.Array, axis: int | None = None) -> jax.Array:
    """The largest uint32 that at most `zeros` of all lie below; one for each index of `axis`, if that is 0."""
    kept_axes = 0 if axis is None else 1
    shape = next(iter(bits.values())).shape[:kept_axes]
    size = sum(b.size for b in bits.values()) // (shape[0] if shape else 1)
    allowed = zeros * (size / 2**_BITS)
    high = jnp.floor(allowed)
    low = jnp.round((allowed - high) * 2**_BITS)
    limit = _carried(high.astype(jnp.int32), low.astype(jnp.int32))

    def halve(_: int, between: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        below, above = between
        middle = below + (above - below) // 2
        parts = [_count(b < _along_layers(middle, b), kept_axes) for b in bits.values()]
        found = _carried(sum(high for high, _ in parts), sum(low for _, low in parts))
        fits = (found[0] < limit[0]) | ((found[0] == limit[0]) & (found[1] <= limit[1]))
        return jnp.where(fits, middle, below), jnp.where(fits, above, middle)

    everything = jnp.full(shape, 0x7FFFFFFF, jnp.uint32)
    return jax.lax.fori_loop(0, 31, halve, (jnp.zeros(shape, jnp.uint32), everything))[0]


def _count(true: jax.Array, kept_axes: int) -> tuple[jax.Array, jax.Array]:
    high, low = jnp.int32(0), true.astype(jnp.int32)
    for axis in reversed(range(kept_axes, true.ndim)):
        high, low = _carried(jnp.sum(high, axis) if high.ndim else high, jnp.sum(low, axis))
    return high, low


def _carried(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    return high + (low >> _BITS), low & (2**_BITS - 1)


def _along_layers(threshold: jax.Array, like: jax.Array) -> jax.Array:
    return threshold.reshape(*threshold.shape, *[1] * (like.ndim - threshold.ndim))
