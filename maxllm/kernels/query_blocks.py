"""Attention one block of queries after another, against all the keys: what is odd about its scores is written plainly,
memory stays linear in the keys, and the backward pass is the compiler's, which computes a block's scores again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from maxllm.kernels.masking import MASKED

BLOCK = 128


def by_query_blocks(attend: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`attend(begin, *parts)` for each block of queries, put together again `[batch, length, ...]`.

    `arrays`: what belongs to queries, `[batch, length, ...]`; `parts` are their stretches `[batch, block, ...]` from
    place `begin` on. The last block is filled up with zeros.
    """
    batch, length = arrays[0].shape[:2]
    block = block_of(length)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, -length % block), *[(0, 0)] * (x.ndim - 2)))
        return x.reshape(batch, -1, block, *x.shape[2:]).swapaxes(0, 1)

    parts = [cut(x) for x in arrays]
    begins = block * jnp.arange(parts[0].shape[0])
    # Within a loop there is nothing for common-subexpression elimination to undo.
    again = jax.checkpoint(attend, prevent_cse=False)
    mixed = jax.lax.map(lambda one: again(*one), (begins, *parts)).swapaxes(0, 1)
    mixed = mixed.reshape(batch, -1, *mixed.shape[3:])[:, :length]
    return checkpoint_name(mixed, "attention")


def block_of(length: int) -> int:
    return min(BLOCK, length)


def mix(scores: jax.Array, allowed: jax.Array, value: jax.Array, dtype: Any) -> jax.Array:
    """softmax over the allowed keys, times values: `[batch, queries, heads, value_dim]` in `dtype`.

    `scores`: float32 `[batch, kv_heads, group, queries, keys]`; `allowed` broadcasts to it; `value`
    `[batch, keys, kv_heads, value_dim]`. A query that sees no key (padding, in a row of pairs) gets zeros.
    """
    weights = jax.nn.softmax(jnp.where(allowed, scores, MASKED), axis=-1)
    weights = jnp.where(allowed, weights, 0.0).astype(dtype)
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", weights, value.astype(dtype))
    return mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])
