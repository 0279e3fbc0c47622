"""A mixture of experts in place of the feed-forward layer (Shazeer et al. 2017; Mixtral: Jiang et al. 2024)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from maxllm.config.model_parts import RoutingConfig
from maxllm.kernels.expert_exchange import AXIS, from_owners, take_rows, to_owners
from maxllm.kernels.grouped_matmul import grouped_matmul
from maxllm.models.mlp import FeedForward
from maxllm.models.router import Router, choose, router_losses
from maxllm.parallel.rules import cast, layout

Matrices = tuple[jax.Array, jax.Array, jax.Array]
WIDE = ("experts", "expert_embed", "mlp")
TALL = ("experts", "mlp", "expert_embed")


class MoE(nnx.Module):
    """Σ weight · expert(x) over the experts that the router chose for a token; each expert is a SwiGLU.

    `routing`: how they are chosen, their losses, and what goes around them: a SwiGLU of `shared_size` that every token
    goes through (DeepSeekMoE: Dai et al. 2024), with `shared_gate` times a sigmoid of the token (Qwen 1.5 MoE).

    `capacity_factor`: None computes every choice (dropless, as MegaBlocks: Gale et al. 2022). A number gives each
    expert places for that many times an even share of each row's choices (as GShard: Lepikhin et al. 2020), first come,
    first served along the row, so that no token's fate hangs on a later one; a choice without a place adds nothing.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        experts_per_token: int,
        *,
        capacity_factor: float | None,
        routing: RoutingConfig = RoutingConfig(),  # noqa: B008 (frozen)
        std: float,
        rngs: nnx.Rngs,
    ):
        def kernel(axes: tuple[str, ...], *shape: int) -> nnx.Param:
            return nnx.Param(std * jax.random.normal(rngs.params(), (num_experts, *shape)), axes=axes)

        self.router = Router(hidden_size, num_experts, bias=routing.biased, std=std, rngs=rngs)
        self.gate = kernel(WIDE, hidden_size, intermediate_size)
        self.up = kernel(WIDE, hidden_size, intermediate_size)
        self.down = kernel(TALL, intermediate_size, hidden_size)
        if routing.shared_size:
            self.shared = FeedForward(hidden_size, routing.shared_size, std=std, rngs=rngs)
            if routing.shared_gate:
                gate = std * jax.random.normal(rngs.params(), (hidden_size, 1))
                self.shared_gate = nnx.Param(gate, axes=("norm", None))
        self.experts_per_token = experts_per_token
        self.capacity_factor = capacity_factor
        self.routing = routing

    def __call__(
        self, x: jax.Array, segment_ids: jax.Array | None = None, *, dropless: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """`x` `[batch, length, embed]` to the same shape, and the router's losses (see `router_losses`). Padding
        (segment 0) goes to no expert; without shared experts it comes out as zeros.

        `dropless`: whatever `capacity_factor` says, as generation wants it, where rows hold a token or two.
        """
        work = _dropless
        if self.capacity_factor is not None and not dropless:
            work = functools.partial(_within_capacity, factor=self.capacity_factor)
        bias = self.router.bias[...] if self.routing.biased else None

        def local(
            x: jax.Array, logits: jax.Array, padding: jax.Array, matrices: Matrices, bias: jax.Array | None, owners: int
        ) -> tuple[jax.Array, jax.Array]:
            weights, chosen = choose(logits, self.experts_per_token, self.routing, bias)
            goes = jnp.where(padding[..., None], logits.shape[-1], chosen)  # a number that is no expert's
            return work(x, weights, goes, matrices, experts=logits.shape[-1], owners=owners), chosen

        padding = jnp.zeros(x.shape[:2], bool) if segment_ids is None else segment_ids == 0
        kernels = ((self.gate, WIDE), (self.up, WIDE), (self.down, TALL))
        matrices = tuple(cast(kernel[...], x.dtype, *axes) for kernel, axes in kernels)
        logits = self.router(x)
        out, chosen = _on_mesh(local, x, logits, padding, matrices, bias)
        if self.routing.shared_size:
            out = out + self._shared(x)
        return out, router_losses(logits, chosen, padding, self.routing, bias)

    def _shared(self, x: jax.Array) -> jax.Array:
        out = self.shared(x)
        if not self.routing.shared_gate:
            return out
        gate = jnp.matmul(x, self.shared_gate[...].astype(x.dtype), preferred_element_type=jnp.float32)
        return out * jax.nn.sigmoid(gate).astype(x.dtype)


def _on_mesh(
    local: Callable[..., tuple[jax.Array, jax.Array]],
    x: jax.Array,
    logits: jax.Array,
    padding: jax.Array,
    matrices: Matrices,
    bias: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """`local` by each device for the tokens it holds, with its part of the matrices' columns, added up over `tensor`;
    and the experts that it chose.

    The matrices come whole along `embed`: each device has them gathered, as any parameter before its use. Choosing the
    experts is in here too: left to itself, the compiler gathers all logits of all devices to sort them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(x, logits, padding, matrices, bias, 1)
    rows, length, _ = layout(mesh, x.shape, ("batch", "length", None))
    sequence = layout(mesh, x.shape, (None, "sequence", None))[1]
    wide = layout(mesh, matrices[0].shape, ("experts", None, "mlp"))
    tall = PartitionSpec(wide[0], wide[2], None)

    def each(x: jax.Array, *others: Any) -> tuple[jax.Array, jax.Array]:
        # Between layers the length is split over tensor too: gathered here, and scattered as parts are added up.
        if sequence is not None:
            x = jax.lax.all_gather(x, "tensor", axis=1, tiled=True)
        out, chosen = local(x, *others, mesh.shape[AXIS])
        if sequence is None:
            return jax.lax.psum(out, "tensor"), chosen
        return jax.lax.psum_scatter(out, "tensor", scatter_dimension=1, tiled=True), chosen

    tokens = PartitionSpec(rows, length)
    residual = PartitionSpec(rows, length if sequence is None else sequence)
    specs = (residual, tokens, tokens, (wide, wide, tall), PartitionSpec())
    mapped = jax.shard_map(each, in_specs=specs, out_specs=(residual, tokens), check_vma=False)
    return mapped(x, logits, padding, matrices, bias)


def _dropless(
    x: jax.Array, weights: jax.Array, chosen: jax.Array, matrices: Matrices, *, experts: int, owners: int
) -> jax.Array:
    """Every choice, sorted by expert, and brought to its owner and back where there are several owners."""
    copies, width = chosen.shape[-1], x.shape[-1]
    tokens, chosen = x.reshape(-1, width), chosen.reshape(-1)
    order = jnp.argsort(chosen)  # stable
    # Choices of no expert come last: nothing is computed for them, and what lies there is not looked at.
    place = jnp.argsort(order)
    place = jnp.where(chosen < experts, place, chosen.size)
    sizes = jnp.bincount(chosen, length=experts).astype(jnp.int32)
    rows = take_rows(tokens, order // copies, place.reshape(-1, copies))
    if owners == 1:
        rows = _swiglu(rows, matrices, sizes)
    else:
        everyone = jax.lax.all_gather(sizes, AXIS)
        # Every token of every device may choose all of an owner's experts, and none twice.
        most = owners * len(tokens) * min(copies, experts // owners)
        received = to_owners(rows, everyone, most)
        own = everyone.sum(axis=0).reshape(owners, -1)[jax.lax.axis_index(AXIS)]
        rows = from_owners(_swiglu(received, matrices, own), everyone, len(rows))
    return _weighted(take_rows(rows, place, order[:, None]), weights).reshape(x.shape)


def _swiglu(rows: jax.Array, matrices: Matrices, sizes: jax.Array) -> jax.Array:
    gate, up, down = matrices
    gate = checkpoint_name(grouped_matmul(rows, gate, sizes), "mlp_gate")
    up = checkpoint_name(grouped_matmul(rows, up, sizes), "mlp_up")
    return grouped_matmul(nnx.silu(gate) * up, down, sizes)


def _weighted(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """Σ over a token's choices, in float32: `[tokens, embed]`."""
    weights = weights.reshape(-1, weights.shape[-1], 1)
    return (rows.reshape(*weights.shape[:2], -1) * weights).sum(axis=1).astype(rows.dtype)


def _within_capacity(
    x: jax.Array,
    weights: jax.Array,
    chosen: jax.Array,
    matrices: Matrices,
    *,
    experts: int,
    owners: int,
    factor: float,
) -> jax.Array:
    """As many places for every expert in every row, so that all shapes are fixed."""
    batch, length, width = x.shape
    copies = chosen.shape[-1]
    capacity = capacity_of(length, experts, copies, factor)
    choices = chosen.reshape(batch, -1)
    hot = jax.nn.one_hot(choices, experts, dtype=jnp.int32)  # no expert: all zeros
    turn = ((jnp.cumsum(hot, axis=1) - 1) * hot).sum(axis=-1)
    kept = (choices < experts) & (turn < capacity)
    # Places are numbered [experts, batch, capacity]: an owner's experts lie together.
    places = experts * batch * capacity
    place = jnp.where(kept, (choices * batch + jnp.arange(batch)[:, None]) * capacity + turn, places).reshape(-1)
    source = jnp.full(places, choices.size, jnp.int32).at[place].set(jnp.arange(place.size), mode="drop")
    rows = take_rows(x.reshape(-1, width), source // copies, place.reshape(-1, copies))
    rows = rows.reshape(experts, -1, width)
    if owners > 1:
        rows = jax.lax.all_to_all(rows, AXIS, split_axis=0, concat_axis=1, tiled=True)
    gate, up, down = matrices
    gate = checkpoint_name(_each(rows, gate), "mlp_gate")
    rows = _each(nnx.silu(gate) * checkpoint_name(_each(rows, up), "mlp_up"), down)
    if owners > 1:
        rows = jax.lax.all_to_all(rows, AXIS, split_axis=1, concat_axis=0, tiled=True)
    rows = take_rows(rows.reshape(-1, width), place, source[:, None])
    return _weighted(rows, weights).reshape(x.shape)


def capacity_of(length: int, experts: int, experts_per_token: int, factor: float) -> int:
    """Places of each expert for the choices of one row of `length` tokens; a token takes at most one of them."""
    return min(length, math.ceil(factor * length * experts_per_token / experts))


def _each(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.einsum("emi,eio->emo", rows, matrix)
