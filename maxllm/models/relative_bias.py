"""T5's relative positions: a number for each head and each bucket of distances, added to scores.

Raffel et al. 2019, section 2.1: half of a direction's buckets hold one distance each, the others a range that grows
logarithmically up to `max_distance`, and the last one everything beyond. All layers of a stack share them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.kernels.attention_distance import distance_attention
from maxllm.kernels.cached_attention import attend_to_cache
from maxllm.models.attention import Attention, read, write
from maxllm.parallel.rules import constrain


def buckets(distances: np.ndarray, *, bidirectional: bool, count: int, max_distance: int) -> np.ndarray:
    """The bucket, from 0 to `count` - 1, of each distance (the key's place minus the query's).

    Bidirectional: keys behind a query have the first half of the buckets, keys ahead of it the second. Otherwise keys
    ahead share bucket 0, and nobody looks at them. The logarithms are float32 as in T5, whose rounding decides at a
    bucket's edge.
    """
    ahead = np.zeros_like(distances)
    if bidirectional:
        count //= 2
        ahead = (distances > 0) * count
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distances, exact).astype(np.float32) / exact) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (ratio * (count - exact)).astype(np.int32), count - 1)
    return ahead + np.where(distances < exact, distances, far)


class RelativeBias(nnx.Module):
    """A float32 table `[buckets, heads]`, and what it says of rows of a length."""

    def __init__(
        self, count: int, num_heads: int, *, max_distance: int, bidirectional: bool, std: float, rngs: nnx.Rngs
    ):
        # Rows are whole on every device; "norm" also keeps them float32 where matrices are rounded.
        self.table = nnx.Param(std * jax.random.normal(rngs.params(), (count, num_heads)), axes=("norm", "heads"))
        self.bidirectional = bidirectional
        self.max_distance = max_distance

    def by_distance(self, length: int) -> jax.Array:
        """Float32 `[heads, 2 · length - 1]`: entry `length - 1 + d` belongs to keys at distance d from the query."""
        bucket = buckets(
            np.arange(1 - length, length),
            bidirectional=self.bidirectional,
            count=self.table.shape[0],
            max_distance=self.max_distance,
        )
        return self.table[...][bucket].T

    def at(self, positions: jax.Array, length: int) -> jax.Array:
        """Float32 `[batch, heads, t, length]`: of queries at `positions` `[batch, t]` below `length`, for keys 0 to
        `length` - 1."""
        distances = jnp.arange(length) - positions[..., None]  # [batch, t, length]
        return jnp.moveaxis(self.by_distance(length)[:, length - 1 + distances], 0, 1)


class BiasedPlaces(NamedTuple):
    """What layers that share a bias are told of places."""

    positions: jax.Array  # int32 [batch, length], from 0 within a segment
    bias: jax.Array  # float32: by distance [heads, 2 · length - 1]; to a cache, [batch, heads, t, window]


class BiasedAttention(Attention):
    """Self-attention whose scores have a bias added that all layers share, and that turns nothing."""

    def __call__(
        self, x: jax.Array, places: BiasedPlaces, segment_ids: jax.Array | None = None, *, local: bool = False
    ) -> jax.Array:
        mixed = distance_attention(*self.project(x, None), places.bias, segment_ids, masking=self._masking(local))
        mixed = checkpoint_name(mixed, "attention")
        return checkpoint_name(self.output(constrain(mixed, "batch", "length", "heads", None)), "attention_output")

    def extend(
        self,
        x: jax.Array,
        places: BiasedPlaces,
        keys: jax.Array,
        values: jax.Array,
        layer: jax.Array,
        window: int,
        *,
        local: bool = False,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        query, key, value = self.project(x, None)
        keys, values = (write(all_, new, layer, places.positions) for all_, new in ((keys, key), (values, value)))
        own = (read(part, layer, x.shape[0], window) for part in (keys, values))
        mixed = attend_to_cache(query, *own, places.positions, self._masking(local), places.bias)
        return self.output(mixed), keys, values
