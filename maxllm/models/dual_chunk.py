"""Self-attention in chunks of positions (An et al. 2024): longer contexts than those of training, without training."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maxllm.config.model import ModelConfig
from maxllm.kernels.dual_chunk import attend_to_chunks, dual_chunk_attention
from maxllm.models.attention import Attention, Places
from maxllm.models.rope import Rotation, rotate, rotation


class ChunkRotation(NamedTuple):
    """A query's turns for keys of its own chunk (also those keys'), of the chunk before, and of those before that."""

    intra: Rotation
    successive: Rotation
    inter: Rotation


def chunk_rotation(positions: jax.Array, config: ModelConfig) -> ChunkRotation:
    """For `positions` int32 `[batch, length]`: turned by p mod s, by min(s + p mod s, s + w), and by s + w.

    s + w is the largest distance that ever occurs: the paper's c - 1. (Its figures have c = s + w, the authors' code
    and vLLM's, with which Qwen 2.5 was published, c = s + w + 1. We have the latter.)
    """
    chunk, furthest = config.dual_chunk.chunk, config.dual_chunk.chunk + config.dual_chunk.local
    within = positions % chunk
    three = within, jnp.minimum(chunk + within, furthest), jnp.full((1, 1), furthest)
    return ChunkRotation(*(rotation(at, config.head_size, config.rope_theta, config.rope_scaling) for at in three))


class DualChunkAttention(Attention):
    """`Places.rotation` is a ChunkRotation; the cache holds keys turned by their position modulo the chunk."""

    def __init__(self, *shape: int, chunk: int, **options: Any):
        super().__init__(*shape, **options)
        self.chunk = chunk

    def turn(self, query: jax.Array, key: jax.Array, by: ChunkRotation) -> tuple[jax.Array, jax.Array]:
        return jnp.concatenate([rotate(query, one) for one in by], axis=-1), rotate(key, by.intra)

    def mixed(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        places: Places,
        segment_ids: jax.Array | None,
        local: bool,
    ) -> jax.Array:
        if query.shape[1] <= self.chunk:  # no segment has a second chunk
            own = query[..., : key.shape[-1]]
            return super().mixed(own, key, value, places, segment_ids, local)
        masking = self._masking(local)
        return dual_chunk_attention(query, key, value, places.positions, self.chunk, segment_ids, masking)

    def mixed_cached(
        self, query: jax.Array, keys: jax.Array, values: jax.Array, places: Places, local: bool
    ) -> jax.Array:
        if keys.shape[2] <= self.chunk:
            own = query[..., : keys.shape[-1]]
            return super().mixed_cached(own, keys, values, places, local)
        return attend_to_chunks(query, keys, values, places.positions, self.chunk, self._masking(local))
