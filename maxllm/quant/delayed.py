"""What delayed scaling remembers from step to step, as a part of the model's state that no optimizer sees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.quant import exponents, products

HISTORY = 1024  # steps, Transformer Engine's default; a longer one costs nothing here


class Amax(nnx.Variable):
    """Float32 `[..., 3, 256]`: the exponents that x, kernel and gradient of a product needed lately."""


class Delayed(nnx.Module):
    """An fp8 product with delayed scaling. `stack`: the leading axes of the kernel, such as (number of layers,)."""

    def __init__(self, stack: tuple[int, ...], axes: tuple[str | None, ...]):
        self.seen = Amax(jnp.zeros((*stack, 3, exponents.POWERS)), axes=(*axes, None, None))

    def __call__(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return products.fp8(x, kernel, self.seen[...])


def after_step(scaling: nnx.State, counts: nnx.State) -> nnx.State:
    """`scaling` after a step whose gradients with respect to it were `counts`."""
    return jax.tree.map(lambda table, met: exponents.remember(table, met, HISTORY), scaling, counts)
