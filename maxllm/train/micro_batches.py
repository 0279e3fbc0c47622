"""A batch cut into micro-batches, and what is added up over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxllm.batch import Batch
from maxllm.parallel.rules import constrain


def micro_batches(batch: Batch, count: int) -> Batch:
    """`[count, batch / count, length]`; micro-batch i is rows i, i + count, ...: no row leaves its device."""

    def cut(rows: jax.Array) -> jax.Array:
        cut = rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(cut, None, "batch", "length")

    return jax.tree.map(cut, batch)


def sum_over(function: Callable[[Batch], Any], batches: Batch) -> Any:
    """The sum of `function`'s results, one micro-batch after another."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda rows: rows[0], batches))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(lambda sums, batch: (jax.tree.map(jnp.add, sums, function(batch)), None), zeros, batches)[0]


def mean(gradients: Any, terms: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The gradients of the mean of the term "loss" from those of its sum; zeros where nothing had weight."""
    weight = jnp.where(terms["loss"].weight == 0, 1.0, terms["loss"].weight)
    return jax.tree.map(lambda gradient: gradient / weight, gradients), terms
