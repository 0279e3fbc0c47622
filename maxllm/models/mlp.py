"""The feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.models.linear import Linear
from maxllm.parallel.rules import constrain

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nnx.silu,
    "gelu": partial(nnx.gelu, approximate=False),
    "gelu_tanh": partial(nnx.gelu, approximate=True),
    "relu": nnx.relu,
}


class FeedForward(nnx.Module):
    """down(activation(up(x))) (Vaswani et al. 2017); `gated`: down(activation(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        activation: str = "silu",
        gated: bool = True,
        bias: bool = False,
        std: float,
        rngs: nnx.Rngs,
    ):
        options = {"bias": bias, "std": std, "rngs": rngs}
        if gated:
            self.gate = Linear({"embed": hidden_size}, {"mlp": intermediate_size}, **options)
        self.up = Linear({"embed": hidden_size}, {"mlp": intermediate_size}, **options)
        self.down = Linear({"mlp": intermediate_size}, {"embed": hidden_size}, **options)
        self.activation = activation
        self.gated = gated

    def __call__(self, x: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.activation]
        if self.gated:
            gate = checkpoint_name(constrain(self.gate(x), "batch", "length", "mlp"), "mlp_gate")
            up = checkpoint_name(constrain(self.up(x), "batch", "length", "mlp"), "mlp_up")
            return self.down(activation(gate) * up)
        return self.down(activation(checkpoint_name(constrain(self.up(x), "batch", "length", "mlp"), "mlp_up")))
