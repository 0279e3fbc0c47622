"""Attention whose scores get a bias by the distance between query and key: ALiBi, T5's relative positions.

And without a bias, attention between two sequences of different lengths.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import capped
from maxllm.kernels.masking import CAUSAL, Masking, visible_range
from maxllm.kernels.query_blocks import block_of, by_query_blocks, mix
from maxllm.parallel.rules import on_each_device


def distance_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    key_segment_ids: jax.Array | None = None,
    masking: Masking = CAUSAL,
) -> jax.Array:
    """softmax(query · keyᵀ · scale + bias[key place - query place]) · value: `[batch, queries, heads, value_dim]`.

    `query` `[batch, queries, heads, head_dim]`, `key` `[batch, keys, kv_heads, head_dim]`, `value`
    `[batch, keys, kv_heads, value_dim]`. `bias`: float32 `[heads, queries + keys - 1]`, that of distance d at index
    d + queries - 1; it has a gradient.

    A sequence with itself: `key_segment_ids` None; a query sees keys of its own run of equal `segment_ids` (None: the
    whole row), as in `kernels.attention`. Two sequences: `key_segment_ids` given (int32 `[batch, keys]`, as
    `segment_ids` are for queries); a query sees keys of the same id, and gets zeros where there are none. Give
    `Masking(causal=False)` then, as a rule: places are compared as they are.
    """
    queries, keys = query.shape[1], key.shape[1]
    if segment_ids is None:
        segment_ids = jnp.zeros((query.shape[0], queries), jnp.int32)
    arrays = [query, key, value, segment_ids]
    axes = [("batch", None, "heads", None), *[("batch", None, "kv_heads", None)] * 2, ("batch", None)]
    own = key_segment_ids is None
    if own and queries != keys:
        raise ValueError(f"{queries} queries and {keys} keys are no sequence with itself: give key_segment_ids")
    if not own:
        arrays.append(key_segment_ids)
        axes.append(("batch", None))
    if bias is not None:
        arrays.append(bias)
        axes.append(("heads", None))
    run = functools.partial(_on_device, masking=masking, own=own, biased=bias is not None)
    return on_each_device(run, tuple(axes), axes[0])(*arrays)


def _on_device(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *more: jax.Array,
    masking: Masking,
    own: bool,
    biased: bool,
) -> jax.Array:
    batch, queries, heads, head_dim = query.shape
    keys, kv_heads = key.shape[1:3]
    block = block_of(queries)
    index = jnp.arange(keys)
    if own:  # a range of places for each query
        seen = visible_range(masking, segment_ids, query.shape)
    else:
        seen = (segment_ids,)
        key_ids = more[0]
    if biased:
        # Places in the last block beyond the last query would have indices below 0.
        table = jnp.pad(more[-1], ((0, 0), (-queries % block, 0)))

    def attend(begin: jax.Array, query: jax.Array, *seen: jax.Array) -> jax.Array:
        scores = jnp.einsum(
            "bqkgd,bskd->bkgqs",
            query.reshape(batch, block, kv_heads, -1, head_dim),
            key.astype(query.dtype),
            preferred_element_type=jnp.float32,
        )
        scores = capped(scores * masking.scale_for(head_dim), masking)
        if biased:
            from_end = table.shape[1] - (block + keys - 1) - begin
            own_bias = by_distance(jax.lax.dynamic_slice_in_dim(table, from_end, block + keys - 1, axis=1), block)
            scores += own_bias.reshape(kv_heads, -1, block, keys)
        if own:
            first, last = seen
            allowed = (first[:, :, None] <= index) & (index <= last[:, :, None])
        else:
            allowed = seen[0][:, :, None] == key_ids[:, None, :]
            allowed &= _within(masking, index - (begin + jnp.arange(block))[:, None])
        return mix(scores, allowed[:, None, None], value, query.dtype)

    return by_query_blocks(attend, query, *seen)


def _within(masking: Masking, distance: jax.Array) -> jax.Array:
    allowed = distance <= 0 if masking.causal else jnp.ones(distance.shape, bool)
    return allowed if masking.window is None else allowed & (jnp.abs(distance) < masking.window)


def by_distance(bias: jax.Array, queries: int) -> jax.Array:
    """`[heads, queries, keys]` from `[heads, queries + keys - 1]`: the bias of distance d = key - query, index
    d + queries - 1.

    By copying and cutting alone: the gradient of a lookup would be a scatter, which accelerators are slow at.
    """
    heads, width = bias.shape
    # Rows that are one longer than what they are read as: each begins one place earlier than the row above.
    rows = jnp.broadcast_to(jnp.pad(bias, ((0, 0), (0, 1)))[:, None], (heads, queries, width + 1))
    rows = rows.reshape(heads, -1)[:, : queries * width].reshape(heads, queries, width)
    return rows[:, :, queries - 1 :]
