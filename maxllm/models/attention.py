"""Grouped-query self-attention."""

from __future__ import annotations

from typing import NamedTuple

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.kernels.attention import attention
from maxllm.kernels.cached_attention import attend_to_cache
from maxllm.kernels.masking import CAUSAL, Masking
from maxllm.models.linear import Linear
from maxllm.models.norm import make_norm
from maxllm.models.rope import Rotation, rotate
from maxllm.parallel.rules import constrain


class Places(NamedTuple):
    """Where tokens stand, in the forms that layers ask for."""

    positions: jax.Array  # int32 [batch, length], from 0 within a segment
    rotation: Rotation | None = None  # of layers that see the whole segment
    local: Rotation | None = None  # of layers with a window
    relative: jax.Array | None = None  # a table of distances, for disentangled attention
    prefix: jax.Array | None = None  # int32 [batch, length]: not 0 where all of the segment sees

    def turned(self, local: bool) -> Rotation | None:
        return self.local if local else self.rotation


class Attention(nnx.Module):
    """Self-attention in which `num_heads / num_kv_heads` query heads share a key (Ainslie et al. 2023).

    `masking`: which keys a query sees and what is done to scores; its window holds for calls with `local` alone.
    `biases`: of "query_key_value" and "output", those that have one. `norm`: over each head's query and key before
    they are turned, of this kind (Dehghani et al. 2023; Qwen 3, Gemma 3).
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        backend: str = "auto",
        context: str = "ring",
        masking: Masking = CAUSAL,
        biases: tuple[str, ...] = (),
        norm: str | None = None,
        norm_eps: float = 1e-6,
        std: float,
        rngs: nnx.Rngs,
    ):
        embed, heads = {"embed": hidden_size}, {"heads": num_heads, "head_dim": head_dim}
        kv_heads = {"kv_heads": num_kv_heads, "head_dim": head_dim}
        options = {"bias": "query_key_value" in biases, "std": std, "rngs": rngs}
        self.query = Linear(embed, heads, **options)
        self.key = Linear(embed, kv_heads, **options)
        self.value = Linear(embed, kv_heads, **options)
        self.output = Linear(heads, embed, bias="output" in biases, std=std, rngs=rngs)
        if norm:
            self.query_norm = make_norm(norm, head_dim, eps=norm_eps)
            self.key_norm = make_norm(norm, head_dim, eps=norm_eps)
        self.normed = norm is not None
        self.masking = masking
        self.backend = backend
        self.context = context

    def project(self, x: jax.Array, by: Rotation | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries and keys, turned, and values: `[batch, length, heads or kv_heads, head_dim]`."""
        query, key = self.query(x), self.key(x)
        if self.normed:
            query, key = self.query_norm(query), self.key_norm(key)
        if by is not None:
            query, key = self.turn(query, key, by)
        query = constrain(query, "batch", "length", "heads", None)
        key = constrain(key, "batch", "length", "kv_heads", None)
        value = constrain(self.value(x), "batch", "length", "kv_heads", None)
        return checkpoint_name(query, "query"), checkpoint_name(key, "key"), checkpoint_name(value, "value")

    def turn(self, query: jax.Array, key: jax.Array, by: Rotation) -> tuple[jax.Array, jax.Array]:
        return rotate(query, by), rotate(key, by)

    def __call__(
        self, x: jax.Array, places: Places, segment_ids: jax.Array | None = None, *, local: bool = False
    ) -> jax.Array:
        mixed = self.mixed(*self.project(x, places.turned(local)), places, segment_ids, local)
        # What the backward pass needs of it has a name already, in the kernel's own layout.
        mixed = constrain(mixed, "batch", "length", "heads", None)
        return checkpoint_name(self.output(mixed), "attention_output")

    def mixed(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        places: Places,
        segment_ids: jax.Array | None,
        local: bool,
    ) -> jax.Array:
        """What each head of each token has collected of the values, `[batch, length, heads, head_dim]`."""
        return attention(
            query,
            key,
            value,
            segment_ids=segment_ids,
            prefix=places.prefix,
            masking=self._masking(local),
            backend=self.backend,
            context=self.context,
        )

    def extend(
        self,
        x: jax.Array,
        places: Places,
        keys: jax.Array,
        values: jax.Array,
        layer: jax.Array,
        window: int,
        *,
        local: bool = False,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attention to this layer's cache, after writing the new keys and values at their positions in it.

        `keys`, `values`: the whole cache `[layers, rows, kv_heads, max_length, head_dim]`, so that the write happens
        in place. Only the first `batch` rows and `window` positions of this layer are read.
        """
        query, key, value = self.project(x, places.turned(local))
        keys = write(keys, key, layer, places.positions)
        values = write(values, value, layer, places.positions)
        own = (read(part, layer, x.shape[0], window) for part in (keys, values))
        return self.output(self.mixed_cached(query, *own, places, local)), keys, values

    def mixed_cached(
        self, query: jax.Array, keys: jax.Array, values: jax.Array, places: Places, local: bool
    ) -> jax.Array:
        """As `mixed`, of one layer's cache `[batch, kv_heads, window, head_dim]`."""
        return attend_to_cache(query, keys, values, places.positions, self._masking(local))

    def _masking(self, local: bool) -> Masking:
        return self.masking if local else self.masking._replace(window=None)


def write(cache: jax.Array, new: jax.Array, layer: jax.Array, positions: jax.Array) -> jax.Array:
    """`new` `[batch, t, kv_heads, head_dim]` put into the cache at `positions` `[batch, t]` of its first rows.

    Positions beyond the cache are dropped: a padded prompt or an idle slot writes nothing.
    """
    rows = jax.numpy.arange(new.shape[0])[:, None]
    return cache.at[layer, rows, :, positions].set(new.astype(cache.dtype), mode="drop")


def read(cache: jax.Array, layer: jax.Array, batch: int, window: int) -> jax.Array:
    """One layer's first rows and positions `[batch, kv_heads, window, head_dim]`."""
    _, _, kv_heads, _, head_dim = cache.shape
    return jax.lax.dynamic_slice(cache, (layer, 0, 0, 0, 0), (1, batch, kv_heads, window, head_dim))[0]
