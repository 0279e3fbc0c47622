"""Attention of new tokens to a KV cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED = -1e30


def attend_to_cache(query: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array) -> jax.Array:
    """Queries `[batch, t, heads, head_dim]` at `positions` `[batch, t]` against entries at or before their own.

    `keys`, `values`: `[batch, kv_heads, max_length, head_dim]`. Scores and softmax in float32.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqkgd,bksd->bkgqs", grouped, keys.astype(query.dtype), preferred_element_type=jnp.float32)
    allowed = jnp.arange(keys.shape[2]) <= positions[:, None, None, :, None]
    weights = jax.nn.softmax(jnp.where(allowed, scores * head_dim**-0.5, MASKED), axis=-1)
    mixed = jnp.einsum("bkgqs,bksd->bqkgd", weights.astype(query.dtype), values.astype(query.dtype))
    return mixed.reshape(batch, length, heads, head_dim)
