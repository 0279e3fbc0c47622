"""Arrays with a leading axis of pipeline stages, one stage's part on each group of devices along the mesh axis `stage`.

The schedule is written for the whole, and the compiler cuts it up (as in GSPMD, Xu et al. 2021, section 3.3): moving
such an array by one place along that axis is a message from every stage to its neighbour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from maxllm.parallel.rules import constrain

STAGE = "stage"


def on_all_stages(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one stage's arrays for all stages at once: of arrays `[stages, ...]`, and returning such.

    Each stage runs it by itself, and layouts that it asks for hold within the stage. (`jax.vmap` would say the same,
    but kernels such as cuDNN's attention cannot be mapped.)
    """

    def of_own(*own: Any) -> Any:
        result = function(*jax.tree.map(lambda leaf: leaf[0], own))
        return jax.tree.map(lambda leaf: leaf[None], result)

    split = PartitionSpec(STAGE)
    return jax.shard_map(of_own, in_specs=split, out_specs=split, axis_names={STAGE}, check_vma=False)


def group(layers: Any, stages: int, chunks: int = 1) -> Any:
    """Leaves `[layers, ...]` as `[stages, chunks, layers / (stages · chunks), ...]`.

    Stage s gets the s-th stretch of layers; with chunks, every `stages`-th of as many shorter ones, so that the layers
    go around the stages `chunks` times. Then they move: they are stored in their plain order.
    """

    def cut(leaf: jax.Array) -> jax.Array:
        return _by_stage(leaf.reshape(chunks, stages, -1, *leaf.shape[1:]).swapaxes(0, 1))

    return jax.tree.map(cut, layers)


def ungroup(groups: Any) -> Any:
    """What `group` was given."""
    return jax.tree.map(lambda leaf: _by_stage(leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[3:])), groups)


def choose(groups: Any, place: jax.Array) -> Any:
    """Of what each stage holds in leaves `[stages, places, ...]`, what lies at `place` `[stages]`."""
    if jax.tree.leaves(groups)[0].shape[1] == 1:
        return jax.tree.map(lambda leaf: leaf[:, 0], groups)

    def of_own(groups: Any, place: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, place, 0, keepdims=False), groups)

    return on_all_stages(of_own)(groups, place)


@jax.custom_vjp
def onward(x: jax.Array) -> jax.Array:
    """Every stage's part of `[stages, ...]` to the next stage; the last one's to the first."""
    return jnp.roll(x, 1, axis=0)


def backward(x: jax.Array) -> jax.Array:
    """Every stage's part of `[stages, ...]` to the stage before; the first one's to the last."""
    return jnp.roll(x, -1, axis=0)


# Differentiated by rule, a roll becomes two messages.
onward.defvjp(lambda x: (onward(x), None), lambda _, d_y: (backward(d_y),))


def put(x: jax.Array, stage: int, value: jax.Array) -> jax.Array:
    """`x` `[stages, ...]` with `value` `[...]`, which every stage has, as that stage's part."""
    return jnp.where(_only(stage, x), value, x)


def take(x: jax.Array, stage: int) -> jax.Array:
    """That stage's part of `x` `[stages, ...]`, for all: one sum over the stages, where a slice would gather them."""
    return jnp.where(_only(stage, x), x, 0).sum(axis=0, dtype=x.dtype)


def where(stages: jax.Array, x: jax.Array) -> jax.Array:
    """`x` `[stages, ...]` with zeros, whatever was there, for the stages whose boolean in `[stages]` is not set."""
    return jnp.where(stages.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)


def spread(x: jax.Array) -> jax.Array:
    """`[stages, batch, length, embed]` laid out as between blocks."""
    return constrain(x, "layers", "batch", "sequence", None)


def _only(stage: int, x: jax.Array) -> jax.Array:
    return (jnp.arange(x.shape[0]) == stage % x.shape[0]).reshape(-1, *(1,) * (x.ndim - 1))


def _by_stage(x: jax.Array) -> jax.Array:
    """Split along the first axis; how the others lie is the compiler's to carry over."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(STAGE, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)))
