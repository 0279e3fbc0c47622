"""One head's attention as matrix products: the layout, names and score arithmetic that the JAX kernels share.

One head is `query` `[rows, head_dim]` (already scaled), `key` and `value` `[length, head_dim]`; the `group` query heads
that share a key are interleaved in the rows, row = position · group + head, so that grouped-query attention is the
same matrix products, only taller. A row sees the keys from `first` to `last` `[rows]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from maxllm.kernels.masking import Masking, visible_range


def by_head(
    function: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    masking: Masking,
    *,
    multiple: int = 1,
) -> jax.Array:
    """Calls `function(query, key, value, first, last)` on arrays with a leading axis of batch · kv_heads, the length
    filled up to a `multiple`, and puts its result back in place."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads
    short = -length % multiple

    # [batch, length, kv_heads · n, head_dim] -> [batch · kv_heads, length · n, head_dim]
    def fold(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, short), (0, 0), (0, 0))) if short else x
        x = x.reshape(batch, length + short, kv_heads, -1, head_dim).swapaxes(1, 2)
        return x.reshape(batch * kv_heads, -1, head_dim)

    def rows(x: jax.Array) -> jax.Array:
        # What fills up a row sees the row's end, and nothing sees it.
        x = jnp.pad(x, ((0, 0), (0, short)), constant_values=length - 1) if short else x
        return jnp.repeat(jnp.repeat(x, group, axis=1), kv_heads, axis=0)

    scaled = (query.astype(jnp.float32) * masking.scale_for(head_dim)).astype(query.dtype)
    first, last = visible_range(masking, segment_ids, query.shape)
    mixed = function(fold(scaled), fold(key), fold(value), rows(first), rows(last))
    mixed = mixed.reshape(batch, kv_heads, length + short, group, head_dim).swapaxes(1, 2)
    return mixed.reshape(batch, length + short, heads, head_dim)[:, :length]


def named(mixed: jax.Array, denominator: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Names for rematerialisation: with these two saved, a backward pass need not run the forward again."""
    return checkpoint_name(mixed, "attention"), checkpoint_name(denominator, "attention_denominator")


def capped(scores: jax.Array, masking: Masking) -> jax.Array:
    return scores if masking.softcap is None else masking.softcap * jnp.tanh(scores / masking.softcap)


def uncapped(d_scores: jax.Array, scores: jax.Array, masking: Masking) -> jax.Array:
    """The gradient of what `capped` was given, from that of `scores`, which it returned: 1 - tanh²."""
    return d_scores if masking.softcap is None else d_scores * (1 - (scores / masking.softcap) ** 2)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def along(mixed: Any, gradient: Any) -> jax.Array:
    """D = rowsum(dO · O), float32."""
    return (mixed.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(axis=-1)
