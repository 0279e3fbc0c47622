"""The gated feed-forward layer."""

from __future__ import annotations

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.models.linear import Linear
from maxllm.parallel.rules import constrain


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, std: float, rngs: nnx.Rngs):
        self.gate = Linear({"embed": hidden_size}, {"mlp": intermediate_size}, std=std, rngs=rngs)
        self.up = Linear({"embed": hidden_size}, {"mlp": intermediate_size}, std=std, rngs=rngs)
        self.down = Linear({"mlp": intermediate_size}, {"embed": hidden_size}, std=std, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = checkpoint_name(constrain(self.gate(x), "batch", "length", "mlp"), "mlp_gate")
        up = checkpoint_name(constrain(self.up(x), "batch", "length", "mlp"), "mlp_up")
        return self.down(nnx.silu(gate) * up)
