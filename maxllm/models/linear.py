"""A matrix between named axes, and the token embedding."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.parallel.rules import cast, constrain, gathered
from maxllm.parallel.sequence import merged, one_row_each, parted


class Linear(nnx.Module):
    """y = x · kernel (+ bias). Axes may be grouped: a query projection is embed -> (heads, head_dim).

    The kernel is float32 `[*inputs, *outputs]`, the bias `[*outputs]`; both are cast to the activations' dtype where
    they are used. `x` `[..., *inputs]` becomes `[..., *outputs]`.
    """

    # How two matrices of x's dtype are multiplied; maxllm/quant puts other ways into the layers' instances.
    product = staticmethod(jnp.matmul)

    def __init__(
        self, inputs: dict[str, int], outputs: dict[str, int], *, bias: bool = False, std: float, rngs: nnx.Rngs
    ):
        shape = (*inputs.values(), *outputs.values())
        self.axes = (*inputs, *outputs)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape), axes=self.axes)
        self.input_rank = len(inputs)
        if bias:
            # Whole on every device but where its outputs are split anyway: too small to be worth gathering.
            axes = tuple("norm" if axis == "embed" else axis for axis in outputs)
            self.bias = nnx.Param(jnp.zeros(tuple(outputs.values())), axes=axes)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = gathered(cast(self.kernel[...], x.dtype, *self.axes), self.axes)
        inputs, outputs = kernel.shape[: self.input_rank], kernel.shape[self.input_rank :]
        batch = x.shape[: x.ndim - self.input_rank]
        # A plain product of two matrices: with more axes, the gradient of the kernel asks XLA for a transposed copy of
        # the output's gradient, which on a CPU costs more than the product itself.
        kernel = kernel.reshape(math.prod(inputs), math.prod(outputs))
        if self.product is jnp.matmul and one_row_each(batch):
            y = self.product(x.reshape(*batch, math.prod(inputs)), kernel).reshape(*batch, *outputs)
        else:
            flat = self.product(merged(x, len(batch)).reshape(math.prod(batch), math.prod(inputs)), kernel)
            y = parted(flat.reshape(math.prod(batch), *outputs), batch)
        return y + self.bias[...].astype(y.dtype) if hasattr(self, "bias") else y


class Embedding(nnx.Module):
    """One row of a float32 `[vocab, embed]` table per token; transposed, also a tied head.

    `axis`: what the rows are, logically; "norm" keeps a small table (of positions) whole on every device.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, axis: str = "vocab", std: float, rngs: nnx.Rngs):
        table = std * jax.random.normal(rngs.params(), (vocab_size, hidden_size))
        self.axis = axis
        self.embedding = nnx.Param(table, axes=(axis, "embed"))

    def __call__(self, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
        # Gathered over fsdp before the lookup, like any other parameter before its use; rows stay split over tensor.
        return constrain(cast(self.embedding[...], dtype, self.axis, "embed"), self.axis, None)[tokens]
