"""Attention whose scores see contents and distances apart (He et al. 2020, DeBERTa, section 3).

    score(i, j) = (Q(i) · K(j) + Q(i) · Kr(d(i - j)) + K(j) · Qr(d(i - j))) / sqrt(3 · head_dim)

Q, K come from the hidden states, Kr, Qr from a table of distances that all layers share; d cuts a distance off, or puts
it into one of a number of buckets whose size grows with it (version 2 of the authors' code, which v3 uses).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from maxllm.config.model_parts import EncoderConfig
from maxllm.kernels.masking import MASKED, Masking, visible_range
from maxllm.models.attention import Places
from maxllm.models.linear import Linear
from maxllm.parallel.rules import constrain, on_each_device


def span(encoder: EncoderConfig) -> int:
    """Distances, or buckets of them, on either side: the table has twice as many rows."""
    return encoder.position_buckets or encoder.relative_positions


def rows_of_distances(length: int, encoder: EncoderConfig) -> np.ndarray:
    """The table's row for each distance from -(length - 1) to length - 1: int32 `[2 · length - 1]`."""
    distance = np.arange(1 - length, length)
    if encoder.position_buckets:
        distance = _bucket(distance, encoder.position_buckets // 2, encoder.relative_positions)
    return np.clip(distance + span(encoder), 0, 2 * span(encoder) - 1).astype(np.int32)


def _bucket(distance: np.ndarray, near: int, furthest: int) -> np.ndarray:
    """Distances up to `near` as they are, beyond it on a log scale that reaches 2 · near - 1 at furthest - 1.

    In float32, as the reference computes it: at a bucket's edge the last bit decides.
    """
    far = np.maximum(np.abs(distance), near).astype(np.float32)
    scale = np.log(np.float32((furthest - 1) / near))
    steps = np.ceil(np.log(far / np.float32(near)) / scale * np.float32(near - 1)) + near
    return np.where(np.abs(distance) <= near, distance, steps * np.sign(distance)).astype(np.int64)


class DisentangledAttention(nnx.Module):
    """Self-attention over whole segments. `Places.relative` is the table of distances `[2 · span, embed]`.

    All scores of a layer exist at once, three times `[batch, heads, length, 2 · length]` float32: its length is that
    of encoders, some hundreds of tokens. `compute.remat` other than none computes them again in the backward pass.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, head_dim: int, encoder: EncoderConfig, *, std: float, rngs: nnx.Rngs
    ):
        embed, heads = {"embed": hidden_size}, {"heads": num_heads, "head_dim": head_dim}

        def linear(bias: bool) -> Linear:
            return Linear(embed, heads, bias=bias, std=std, rngs=rngs)

        self.query, self.key, self.value = linear(True), linear(encoder.key_bias), linear(True)
        if not encoder.share_attention:
            self.position_key, self.position_query = linear(encoder.key_bias), linear(True)
        self.output = Linear(heads, embed, bias=True, std=std, rngs=rngs)
        self.encoder = encoder

    def __call__(
        self,
        x: jax.Array,
        places: Places,
        segment_ids: jax.Array | None = None,
        *,
        local: bool = False,
        queries: jax.Array | None = None,
    ) -> jax.Array:
        """`queries`: what asks, `[batch, length, embed]`; `x` when absent. Keys and values are `x`'s."""
        shared, length = self.encoder.share_attention, x.shape[1]
        query = constrain(self.query(x if queries is None else queries), "batch", "length", "heads", None)
        key = constrain(self.key(x), "batch", "length", "heads", None)
        value = constrain(self.value(x), "batch", "length", "heads", None)
        query, key, value = (checkpoint_name(part, name) for part, name in zip((query, key, value), NAMES, strict=True))
        # Tokens of a segment lie as far apart in the row as their positions are.
        rows = rows_of_distances(length, self.encoder)
        as_keys = (self.key if shared else self.position_key)(places.relative)[rows]
        as_queries = (self.query if shared else self.position_query)(places.relative)[rows]
        inputs = [query, key, value, as_keys, as_queries]
        axes = [("batch", None, "heads", None)] * 3 + [(None, "heads", None)] * 2
        if segment_ids is not None:
            inputs, axes = [*inputs, segment_ids], [*axes, ("batch", None)]
        mixed = on_each_device(_mix, tuple(axes), axes[0])(*inputs)
        return checkpoint_name(self.output(checkpoint_name(mixed, "attention")), "attention_output")


NAMES = ("query", "key", "value")


def _mix(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    as_keys: jax.Array,
    as_queries: jax.Array,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    """`[batch, length, heads, head_dim]`, of `as_keys`, `as_queries` `[2 · length - 1, heads, head_dim]`."""
    _, length, _, head_dim = query.shape
    products = {"preferred_element_type": jnp.float32}
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, **products)
    scores += _by_distance(jnp.einsum("bqhd,chd->bhqc", query, as_keys[::-1], **products))
    scores += _by_distance(jnp.einsum("bkhd,chd->bhkc", key, as_queries, **products)).swapaxes(2, 3)
    first, last = visible_range(Masking(causal=False), segment_ids, query.shape)
    index = jnp.arange(length)
    allowed = (first[:, :, None] <= index) & (index <= last[:, :, None])
    scores = jnp.where(allowed[:, None], scores * (3 * head_dim) ** -0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _by_distance(x: jax.Array) -> jax.Array:
    """`[..., n, n]` out of `[..., n, 2n - 1]`: of row i, the n columns from n - 1 - i on.

    Seen as one long vector, each row begins one place earlier than the one before it: no element is looked up.
    """
    n = x.shape[-2]
    if n == 1:
        return x
    flat = x.reshape(*x.shape[:-2], n * (2 * n - 1))
    flat = flat[..., n - 1 : n - 1 + n * (2 * n - 2)]
    return flat.reshape(*x.shape[:-2], n, 2 * n - 2)[..., :n]
