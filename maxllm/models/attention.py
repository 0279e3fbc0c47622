"""Grouped-query self-attention with rotary positions."""

from __future__ import annotations

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.kernels.attention import attention
from maxllm.kernels.cached_attention import attend_to_cache
from maxllm.models.linear import Linear
from maxllm.models.rope import Rotation, rotate
from maxllm.parallel.rules import constrain


class Attention(nnx.Module):
    """Causal self-attention in which `num_heads / num_kv_heads` query heads share a key (Ainslie et al. 2023)."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        backend: str,
        context: str = "ring",
        std: float,
        rngs: nnx.Rngs,
    ):
        embed = {"embed": hidden_size}
        self.query = Linear(embed, {"heads": num_heads, "head_dim": head_dim}, std=std, rngs=rngs)
        self.key = Linear(embed, {"kv_heads": num_kv_heads, "head_dim": head_dim}, std=std, rngs=rngs)
        self.value = Linear(embed, {"kv_heads": num_kv_heads, "head_dim": head_dim}, std=std, rngs=rngs)
        self.output = Linear({"heads": num_heads, "head_dim": head_dim}, embed, std=std, rngs=rngs)
        self.backend = backend
        self.context = context

    def project(self, x: jax.Array, by: Rotation) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rotated queries and keys, and values: `[batch, length, heads or kv_heads, head_dim]`."""
        query = constrain(rotate(self.query(x), by), "batch", "length", "heads", None)
        key = constrain(rotate(self.key(x), by), "batch", "length", "kv_heads", None)
        value = constrain(self.value(x), "batch", "length", "kv_heads", None)
        return checkpoint_name(query, "query"), checkpoint_name(key, "key"), checkpoint_name(value, "value")

    def __call__(self, x: jax.Array, by: Rotation, segment_ids: jax.Array | None) -> jax.Array:
        query, key, value = self.project(x, by)
        mixed = attention(query, key, value, segment_ids=segment_ids, backend=self.backend, context=self.context)
        # What the backward pass needs of it has a name already, in the kernel's own layout.
        mixed = constrain(mixed, "batch", "length", "heads", None)
        return checkpoint_name(self.output(mixed), "attention_output")

    def extend(
        self,
        x: jax.Array,
        by: Rotation,
        positions: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        layer: jax.Array,
        window: int,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attention to this layer's cache, after writing the new keys and values at `positions` in it.

        `keys`, `values`: the whole cache `[layers, rows, kv_heads, max_length, head_dim]`, so that the write happens
        in place. Only the first `batch` rows and `window` positions of this layer are read.
        """
        query, key, value = self.project(x, by)
        rows = jax.numpy.arange(x.shape[0])[:, None]
        # Positions beyond the cache are dropped: a padded prompt or an idle slot writes nothing.
        keys = keys.at[layer, rows, :, positions].set(key.astype(keys.dtype), mode="drop")
        values = values.at[layer, rows, :, positions].set(value.astype(values.dtype), mode="drop")
        mixed = attend_to_cache(query, *(_read(part, layer, x.shape[0], window) for part in (keys, values)), positions)
        return self.output(mixed), keys, values


def _read(cache: jax.Array, layer: jax.Array, batch: int, window: int) -> jax.Array:
    """One layer's first rows and positions `[batch, kv_heads, window, head_dim]`."""
    _, _, kv_heads, _, head_dim = cache.shape
    return jax.lax.dynamic_slice(cache, (layer, 0, 0, 0, 0), (1, batch, kv_heads, window, head_dim))[0]
