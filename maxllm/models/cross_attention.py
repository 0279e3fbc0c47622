"""A decoder's attention to what its encoder has read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.kernels.attention_distance import distance_attention
from maxllm.kernels.cached_attention import attend_to_cache
from maxllm.kernels.masking import Masking
from maxllm.models.attention import read
from maxllm.models.linear import Linear
from maxllm.parallel.rules import constrain


class CrossAttention(nnx.Module):
    """Queries from the decoder's `[batch, length, embed]`, keys and values from the encoder's `[batch, source, embed]`
    (Vaswani et al. 2017, section 3.2.3). `biases`: of "query_key_value" and "output", those that have one."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        masking: Masking,
        biases: tuple[str, ...] = (),
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
        self.masking = masking._replace(causal=False, window=None)

    def memory(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values `[batch, source, kv_heads, head_dim]`."""
        key = constrain(self.key(encoded), "batch", "length", "kv_heads", None)
        value = constrain(self.value(encoded), "batch", "length", "kv_heads", None)
        return checkpoint_name(key, "key"), checkpoint_name(value, "value")

    def __call__(
        self, x: jax.Array, encoded: jax.Array, segment_ids: jax.Array | None, encoder_segment_ids: jax.Array | None
    ) -> jax.Array:
        """A query sees all keys of its row that carry its segment id; without segment ids, all keys of its row."""
        query = checkpoint_name(constrain(self.query(x), "batch", "length", "heads", None), "query")
        if segment_ids is None or encoder_segment_ids is None:
            segment_ids, encoder_segment_ids = (jnp.zeros(rows.shape[:2], jnp.int32) for rows in (x, encoded))
        mixed = distance_attention(
            query, *self.memory(encoded), None, segment_ids, encoder_segment_ids, masking=self.masking
        )
        mixed = checkpoint_name(constrain(mixed, "batch", "length", "heads", None), "attention")
        return checkpoint_name(self.output(mixed), "attention_output")

    def remember(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, lengths: jax.Array, layer: jax.Array, window: int
    ) -> jax.Array:
        """As a call, to keys and values that `memory` made before: `[layers, rows, kv_heads, source, head_dim]`, of
        which a row's first `lengths` `[batch]` are there, and none at or beyond `window`."""
        own = (read(part, layer, x.shape[0], window) for part in (keys, values))
        last = jnp.broadcast_to(lengths[:, None] - 1, x.shape[:2])
        return self.output(attend_to_cache(self.query(x), *own, last, self.masking))
