"""Attention, by several roads to the same numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

MASKED = -1e30


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, segment_ids: jax.Array | None = None, backend: str = "auto"
) -> jax.Array:
    return reference(query, key, value, segment_ids)


def reference(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """softmax(query · keyᵀ / sqrt(head_dim), masked) · value, as written in the paper (Vaswani et al. 2017)."""
    length = query.shape[1]
    allowed = jnp.tril(jnp.ones((length, length), bool))
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, :, None] == segment_ids[:, None, :])
    else:
        allowed = allowed[None]
    return _masked(query, key, value, allowed)


def attend_to_cache(query: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array) -> jax.Array:
    """Queries `[batch, t, heads, head_dim]` at `positions` against cache entries at or before their own position.

    `keys`, `values`: `[batch, kv_heads, max_length, head_dim]`.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqkgd,bksd->bkgqs", grouped, keys.astype(query.dtype), preferred_element_type=jnp.float32)
    allowed = jnp.arange(keys.shape[2]) <= positions[:, None, None, :, None]
    weights = jax.nn.softmax(jnp.where(allowed, scores * head_dim**-0.5, MASKED), axis=-1)
    mixed = jnp.einsum("bkgqs,bksd->bqkgd", weights.astype(query.dtype), values.astype(query.dtype))
    return mixed.reshape(batch, length, heads, head_dim)


def _masked(query: jax.Array, key: jax.Array, value: jax.Array, allowed: jax.Array) -> jax.Array:
    """Attention where `allowed` `[batch, queries, keys]`; scores and softmax in float32."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, key, preferred_element_type=jnp.float32) * head_dim**-0.5
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, MASKED), axis=-1)
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", weights.astype(value.dtype), value)
    return mixed.reshape(batch, length, heads, head_dim)
