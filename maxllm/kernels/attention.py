"""Attention, by several roads to the same numbers.

All take `query` `[batch, length, heads, head_dim]`, `key` and `value` `[batch, length, kv_heads, head_dim]` (query
head h reads kv head h // (heads / kv_heads)) and `segment_ids` int32 `[batch, length]` or None, and return
`[batch, length, heads, head_dim]` in the query's dtype. A segment is a run of equal ids in a row; a query sees keys of
its own run only. Padding is a run like any other, so no row of scores is ever empty.

Positions are not asked for: what is hidden follows from places in the row, and rotations are in `query` and `key`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from maxllm.config.errors import UserError
from maxllm.kernels import attention_choice
from maxllm.kernels.attention_context import context_attention
from maxllm.kernels.masking import CAUSAL, Masking, with_prefix
from maxllm.parallel.rules import on_each_device


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    prefix: jax.Array | None = None,
    masking: Masking = CAUSAL,
    backend: str = "auto",
    context: str = "ring",
) -> jax.Array:
    """softmax(query · keyᵀ · scale) · value over the keys that `masking` and segments leave a query.

    `prefix` `[batch, length]`: not 0 in a beginning of each segment, which all of the segment sees.
    `backend`: "auto" or a key of `attention_choice.BACKENDS`. Raises UserError where that one cannot compute this
    exactly. Every backend names what its backward pass needs ("attention", "attention_denominator"), so that
    rematerialisation can save it. Where the mesh has a context axis, rows lie spread over it, and `context` (a key of
    `attention_context.METHODS`) says how keys meet queries; `backend` is not asked.
    """
    if prefix is not None:
        segment_ids, masking = with_prefix(segment_ids, prefix), masking._replace(prefix=True)
    if jax.sharding.get_abstract_mesh().shape.get("context", 1) > 1:
        if masking.prefix:
            raise UserError("a prefix that is seen both ways cannot be spread over mesh.context; use mesh.context=1")
        return context_attention(query, key, value, segment_ids, masking, context)
    function = attention_choice.choose(backend, attention_choice.asked(query, key, segment_ids, masking))
    if segment_ids is None:
        return _on_each_device(lambda *heads: function(*heads, None, masking), query, key, value)
    return _on_each_device(lambda *arrays: function(*arrays, masking), query, key, value, segment_ids)


def _on_each_device(function: Callable[..., jax.Array], query: jax.Array, *others: jax.Array) -> jax.Array:
    """Rows and heads need nothing from one another, so each device computes those it holds, without a word."""
    axes = [("batch", None, "heads", None), ("batch", None, "kv_heads", None), ("batch", None, "kv_heads", None)]
    axes += [("batch", None)]
    return on_each_device(function, tuple(axes[: len(others) + 1]), axes[0])(query, *others)
