"""A matrix between named axes, and the token embedding."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.parallel.rules import cast, constrain, gathered
from maxllm.parallel.sequence import merged, parted


class Linear(nnx.Module):
    """y = x · kernel, no bias. Axes may be grouped: a query projection is embed -> (heads, head_dim).

    The kernel is float32 `[*inputs, *outputs]`; it is cast to the activations' dtype where it is used.
    `x` `[..., *inputs]` becomes `[..., *outputs]`.
    """

    # How two matrices of x's dtype are multiplied; maxllm/quant puts other ways into the layers' instances.
    product = staticmethod(jnp.matmul)

    def __init__(self, inputs: dict[str, int], outputs: dict[str, int], *, std: float, rngs: nnx.Rngs):
        shape = (*inputs.values(), *outputs.values())
        self.axes = (*inputs, *outputs)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=self.axes)
        self.input_rank = len(inputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = gathered(cast(self.kernel[...], x.dtype, *self.axes), self.axes)
        inputs, outputs = kernel.shape[: self.input_rank], kernel.shape[self.input_rank :]
        batch = x.shape[: x.ndim - self.input_rank]
        # A plain product of two matrices: with more axes, the gradient of the kernel asks XLA for a transposed copy of
        # the output's gradient, which on a CPU costs more than the product itself.
        flat = self.product(
            merged(x, len(batch)).reshape(math.prod(batch), math.prod(inputs)),
            kernel.reshape(math.prod(inputs), math.prod(outputs)),
        )
        return parted(flat.reshape(math.prod(batch), *outputs), batch)


class Embedding(nnx.Module):
    """One row of a float32 `[vocab, embed]` table per token; transposed, also a tied head."""

    def __init__(self, vocab_size: int, hidden_size: int, *, std: float, rngs: nnx.Rngs):
        table = std * jax.random.normal(rngs.params(), (vocab_size, hidden_size))
        self.embedding = nnx.Param(table, axes=("vocab", "embed"))

    def __call__(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        # Gathered over fsdp before the lookup, like any other parameter before its use; rows stay split over tensor.
        return constrain(cast(self.embedding[...], dtype, "vocab", "embed"), "vocab", None)[tokens]
