"""Attention in chunks of positions, none of which is farther from another than training has seen.

An et al. 2024, section 3. A key's position is its own modulo the chunk, s. A query's depends on whose key it looks at:
modulo s too for keys of its chunk, s beyond that (up to w more) for keys of the chunk before, and s + w for all keys
before those. So queries come turned three times. A softmax goes over all keys, whichever score they got.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import capped
from maxllm.kernels.cached_attention import mix_cached
from maxllm.kernels.masking import CAUSAL, Masking, visible_range
from maxllm.kernels.query_blocks import by_query_blocks, mix
from maxllm.parallel.rules import on_each_device


def dual_chunk_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    positions: jax.Array,
    chunk: int,
    segment_ids: jax.Array | None = None,
    masking: Masking = CAUSAL,
) -> jax.Array:
    """As `kernels.attention.attention`, of `query` `[batch, length, heads, 3 · head_dim]`: turned for keys of its own
    chunk, of the one before, and of those before that. `positions`: int32 `[batch, length]`, within their segments.
    """
    if segment_ids is None:
        segment_ids = jnp.zeros(query.shape[:2], jnp.int32)
    axes = [("batch", None, "heads", None), *[("batch", None, "kv_heads", None)] * 2, *[("batch", None)] * 2]
    run = functools.partial(_on_device, chunk=chunk, masking=masking)
    return on_each_device(run, tuple(axes), axes[0])(query, key, value, positions // chunk, segment_ids)


def _on_device(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    chunks: jax.Array,
    segment_ids: jax.Array,
    chunk: int,
    masking: Masking,
) -> jax.Array:
    length = query.shape[1]
    first, last = visible_range(masking, segment_ids, query.shape)
    if length <= 2 * chunk:  # nothing is two chunks away
        query = query[..., : 2 * key.shape[-1]]
    query = query.reshape(*query.shape[:3], -1, key.shape[-1])
    keys, index = key.swapaxes(1, 2), jnp.arange(length)

    def attend(begin: jax.Array, query: jax.Array, of: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
        allowed = (first[:, :, None] <= index) & (index <= last[:, :, None])
        return mix(_scores(query, keys, of, chunks, masking), allowed[:, None, None], value, query.dtype)

    return by_query_blocks(attend, query, chunks, first, last)


def attend_to_chunks(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    chunk: int,
    masking: Masking = CAUSAL,
) -> jax.Array:
    """As `cached_attention.attend_to_cache`, of a `query` that was turned three times."""
    query = query.reshape(*query.shape[:3], 3, -1)
    of = jnp.broadcast_to(jnp.arange(keys.shape[2]) // chunk, (query.shape[0], keys.shape[2]))
    return mix_cached(_scores(query, keys, positions // chunk, of, masking), values, positions, masking, query.dtype)


def _scores(query: jax.Array, keys: jax.Array, chunks: jax.Array, key_chunks: jax.Array, masking: Masking) -> jax.Array:
    """Float32 `[batch, kv_heads, group, queries, keys]` of `query` `[batch, queries, heads, turns, head_dim]`, `keys`
    `[batch, kv_heads, keys, head_dim]`, and the number of the chunk that each is in."""
    batch, queries, heads, turns, head_dim = query.shape
    grouped = query.reshape(batch, queries, keys.shape[1], -1, turns, head_dim)
    # One product, in which keys are read once, and two thirds of which are thrown away.
    scores = jnp.einsum("bqkgtd,bksd->tbkgqs", grouped, keys.astype(query.dtype), preferred_element_type=jnp.float32)
    scores = capped(scores * masking.scale_for(head_dim), masking)
    apart = (chunks[:, :, None] - key_chunks[:, None, :])[:, None, None]
    chosen = scores[turns - 1]
    for turn in reversed(range(turns - 1)):
        chosen = jnp.where(apart <= turn, scores[turn], chosen)
    return chosen
