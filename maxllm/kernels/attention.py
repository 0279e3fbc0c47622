"""Attention, by several roads to the same numbers.

All take `query` `[batch, length, heads, head_dim]`, `key` and `value` `[batch, length, kv_heads, head_dim]` (query
head h reads kv head h // (heads / kv_heads)) and `segment_ids` int32 `[batch, length]` or None, and return
`[batch, length, heads, head_dim]` in the query's dtype. A segment is a run of equal ids in a row; a query attends to
the keys of its own run at and before its own place. Padding is a run like any other, so no row of scores is ever empty.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp

from maxllm.config.errors import UserError
from maxllm.kernels import attention_blocks
from maxllm.kernels.attention_context import context_attention
from maxllm.kernels.masking import CAUSAL, MASKED, Masking, segment_starts, visible_range
from maxllm.parallel import target
from maxllm.parallel.rules import on_each_device

logger = logging.getLogger(__name__)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    masking: Masking = CAUSAL,
    backend: str = "auto",
    context: str = "ring",
) -> jax.Array:
    """Causal grouped-query attention within segments, scores scaled by 1 / sqrt(head_dim).

    `backend`: "auto" or a key of BACKENDS. Raises UserError where the backend cannot compute this exactly. Where the
    mesh has a context axis, rows lie spread over it, and `context` (a key of `attention_context.METHODS`) says how keys
    meet queries; `backend` is not asked.
    """
    if jax.sharding.get_abstract_mesh().shape.get("context", 1) > 1:
        return context_attention(query, key, value, segment_ids, masking, context)
    if backend == "auto":
        backend = _choose(target.platform(), query.shape[1], segment_ids is not None, str(query.dtype))
    if backend != "reference" and masking != CAUSAL:
        backend = "reference"
    function = functools.partial(BACKENDS[backend], **({"masking": masking} if backend == "reference" else {}))
    if segment_ids is None:
        return _on_each_device(functools.partial(function, segment_ids=None), query, key, value)
    return _on_each_device(function, query, key, value, segment_ids)


def _on_each_device(function: Callable[..., jax.Array], query: jax.Array, *others: jax.Array) -> jax.Array:
    """Rows and heads need nothing from one another, so each device computes those it holds, without a word."""
    axes = [("batch", None, "heads", None), ("batch", None, "kv_heads", None), ("batch", None, "kv_heads", None)]
    axes += [("batch", None)]
    return on_each_device(function, tuple(axes[: len(others) + 1]), axes[0])(query, *others)


@functools.cache
def _choose(platform: str, length: int, segmented: bool, dtype: str) -> str:
    """The fastest backend that is exact here; said once."""
    if platform == "cpu":
        backend, reason = "mapped", "one head at a time stays in a core's cache"
    elif platform == "gpu" and not segmented and dtype == "bfloat16":
        backend, reason = "cudnn", "fused, and there are no segments to respect"
    else:
        backend, reason = "blockwise", "memory linear in length, segments respected"
    logger.info("attention: %s on %s at length %d (%s)", backend, platform, length, reason)
    return backend


def reference(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    """softmax(query · keyᵀ · scale, masked) · value, as written (Vaswani et al. 2017)."""
    batch, length, heads, head_dim = query.shape
    index = jnp.arange(length)
    first, last = visible_range(masking, segment_ids, query.shape)
    allowed = (first[:, :, None] <= index) & (index <= last[:, :, None])  # [batch, queries, keys]
    grouped = query.reshape(batch, length, key.shape[2], -1, head_dim)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, key, preferred_element_type=jnp.float32)
    scores *= masking.scale_for(head_dim)
    if masking.softcap is not None:
        scores = masking.softcap * jnp.tanh(scores / masking.softcap)
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, MASKED), axis=-1)
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", weights.astype(value.dtype), value)
    return mixed.reshape(batch, length, heads, head_dim)


def _mapped(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    return attention_blocks.mapped(query, key, value, segment_starts(segment_ids, query.shape))


def _blockwise(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    return attention_blocks.blockwise(query, key, value, segment_starts(segment_ids, query.shape))


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """cuDNN's fused kernel through JAX, which has no argument for segments and would ignore them silently."""
    if segment_ids is not None:
        raise UserError(
            "compute.attention=cudnn cannot keep packed documents apart; use compute.attention=blockwise (or auto)"
        )
    return jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation="cudnn")


BACKENDS: dict[str, Callable[..., jax.Array]] = {
    "reference": reference,
    "mapped": _mapped,
    "blockwise": _blockwise,
    "cudnn": _cudnn,
}
