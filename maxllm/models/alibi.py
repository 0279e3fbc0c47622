"""Self-attention that knows distances by a falling bias on its scores, and no positions (Press et al. 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_distance import distance_attention
from maxllm.kernels.cached_attention import attend_to_cache
from maxllm.models.attention import Attention, Places
from maxllm.models.positions import alibi_bias


class AlibiAttention(Attention):
    def mixed(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        places: Places,
        segment_ids: jax.Array | None,
        local: bool,
    ) -> jax.Array:
        _, length, heads, _ = query.shape
        bias = alibi_bias(jnp.arange(1 - length, length), heads)
        return distance_attention(query, key, value, bias, segment_ids, masking=self._masking(local))

    def mixed_cached(
        self, query: jax.Array, keys: jax.Array, values: jax.Array, places: Places, local: bool
    ) -> jax.Array:
        distances = jnp.arange(keys.shape[2]) - places.positions[:, :, None]  # [batch, t, window]
        bias = alibi_bias(distances, query.shape[2]).swapaxes(0, 1)
        return attend_to_cache(query, keys, values, places.positions, self._masking(local), bias)
