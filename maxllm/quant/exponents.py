"""Delayed scaling: which scale a tensor needs, told by the magnitudes it had in the last steps.

Transformer Engine's recipe with margin 0: scale = 2^floor(log2(FP8_MAX / amax)), amax the largest magnitude of the last
`history` steps; a power of two, so that scaling rounds nothing. Only the power matters, and 256 of them are all that
float32 has. So a history is not a list of magnitudes but a table `[256]`: for each power, how many steps ago it was
last needed, as the number of steps it will still be remembered; 0 is "not within the history".

That makes the update a sum. A tensor is met many times in a step (micro-batches, stages of a pipeline, devices), each
time by a program that knows of no other. Each adds one to the count of the power it met, and the step remembers every
power with a count: the maximum over all of them, whatever the order and however the counts were scaled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

POWERS = 256
# The largest e4m3 is 1.75 · 2^8, the largest e5m2 1.75 · 2^15: both 1.75, so that one table serves both.
_TOP = {jnp.dtype(jnp.float8_e4m3fn): 8, jnp.dtype(jnp.float8_e5m2): 15}
_BIAS = 127
_MANTISSA = 0x7FFFFF
_THREE_QUARTERS = 0x600000


def met(x: jax.Array) -> jax.Array:
    """Float32 `[256]`: 1 at p where |x| at its largest is above 1.75 · 2^(p - 128) and at most 1.75 · 2^(p - 127).

    All zeros if `x` is: zeros fit into any scale.
    """
    amax = jnp.max(jnp.abs(x)).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(amax, jnp.uint32)
    power = jnp.minimum((bits >> 23) + ((bits & _MANTISSA) > _THREE_QUARTERS), POWERS - 1)
    return jax.nn.one_hot(jnp.where(bits == 0, POWERS, power), POWERS, dtype=jnp.float32)


def remember(table: jax.Array, counts: jax.Array, history: int) -> jax.Array:
    """The table after a step in which `counts` were met: both `[..., 256]`."""
    return jnp.where(counts > 0, float(history), jnp.maximum(table - 1, 0))


def scale(table: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """The power of two to multiply with before rounding to `dtype`, and its inverse; 1 with nothing remembered."""
    power = jnp.max(jnp.where(table > 0, jnp.arange(POWERS), 0))
    exponent = jnp.where(power == 0, 0, _TOP[jnp.dtype(dtype)] - (power - _BIAS))
    exponent = jnp.clip(exponent, -126, 126)  # both numbers normal
    return _power_of_two(exponent), _power_of_two(-exponent)


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """Exact, which `exp2` need not be."""
    return jax.lax.bitcast_convert_type((exponent + _BIAS).astype(jnp.uint32) << 23, jnp.float32)
