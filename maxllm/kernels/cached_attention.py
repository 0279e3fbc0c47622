"""Attention of new tokens to a KV cache."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import capped
from maxllm.kernels.masking import CAUSAL, MASKED, Masking


def attend_to_cache(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    masking: Masking = CAUSAL,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Queries `[batch, t, heads, head_dim]` at `positions` `[batch, t]` against entries at or before their own.

    `keys`, `values`: `[batch, kv_heads, max_length, head_dim]`; an entry's index is its position. `masking`: its
    window, soft cap and scale. `bias`: float32 `[batch or 1, heads, t, max_length]`, added to the scores. Scores and
    softmax in float32. A value may be narrower than a key.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqkgd,bksd->bkgqs", grouped, keys.astype(query.dtype), preferred_element_type=jnp.float32)
    scores = capped(scores * masking.scale_for(head_dim), masking)
    if bias is not None:
        scores += bias.reshape(bias.shape[0], kv_heads, heads // kv_heads, *bias.shape[2:])
    return mix_cached(scores, values, positions, masking, query.dtype)


def mix_cached(scores: jax.Array, values: jax.Array, positions: jax.Array, masking: Masking, dtype: Any) -> jax.Array:
    """What `attend_to_cache` returns, from float32 scores `[batch, kv_heads, group, t, max_length]`."""
    index, at = jnp.arange(values.shape[2]), positions[:, None, None, :, None]
    allowed = index <= at
    if masking.window is not None:
        allowed &= index > at - masking.window
    weights = jax.nn.softmax(jnp.where(allowed, scores, MASKED), axis=-1)
    mixed = jnp.einsum("bkgqs,bksd->bqkgd", weights.astype(dtype), values.astype(dtype))
    return mixed.reshape(*positions.shape, -1, values.shape[-1])
