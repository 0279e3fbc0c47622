"""Attention as it is written down: what every other backend has to equal."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import capped
from maxllm.kernels.masking import MASKED, Masking, visible_range


def reference(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    """softmax(query · keyᵀ · scale, masked) · value (Vaswani et al. 2017), all the scores at once."""
    batch, length, heads, head_dim = query.shape
    index = jnp.arange(length)
    first, last = visible_range(masking, segment_ids, query.shape)
    allowed = (first[:, :, None] <= index) & (index <= last[:, :, None])  # [batch, queries, keys]
    grouped = query.reshape(batch, length, key.shape[2], -1, head_dim)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", grouped, key, preferred_element_type=jnp.float32)
    scores = capped(scores * masking.scale_for(head_dim), masking)
    weights = jax.nn.softmax(jnp.where(allowed[:, None, None], scores, MASKED), axis=-1)
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", weights.astype(value.dtype), value)
    return mixed.reshape(batch, length, heads, head_dim)
