"""Which keys a query sees, and what is done to its scores: what every attention backend is asked for."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that the softmax of a masked score is 0 and never NaN


class Masking(NamedTuple):
    """Hashable, so that a kernel can be built and kept for it.

    `causal`: a query sees no key after its own place. `window`: it sees itself and the `window - 1` keys before it
    (and, without `causal`, as many after it). `softcap` c: scores become c · tanh(score / c) before anything is
    masked (Gemma 2, Gemma Team 2024). `scale` of the scores: 1 / sqrt(head_dim) when None. `prefix`: where segment ids
    come negative (`with_prefix`), all of the segment sees, causal or not (Raffel et al. 2020, section 3.2.1).
    """

    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    prefix: bool = False

    def scale_for(self, head_dim: int) -> float:
        return head_dim**-0.5 if self.scale is None else self.scale


CAUSAL = Masking()


def with_prefix(segment_ids: jax.Array | None, prefix: jax.Array) -> jax.Array:
    """Segment ids that say where each segment's prefix is: negative where `prefix` `[batch, length]` is not 0."""
    ids = jnp.ones_like(prefix) if segment_ids is None else segment_ids
    return jnp.where(prefix != 0, -ids, ids)


def segment_starts(segment_ids: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """The index at which each token's run begins, int32 `[batch, length]`; zeros without segments."""
    if segment_ids is None:
        return jnp.zeros(shape[:2], jnp.int32)
    begins = segment_ids[:, 1:] != segment_ids[:, :-1]
    begins = jnp.pad(begins, ((0, 0), (1, 0)), constant_values=True)
    return jax.lax.cummax(jnp.where(begins, jnp.arange(shape[1], dtype=jnp.int32), 0), axis=1)


def segment_ends(segment_ids: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """The index at which each token's run ends (its last token's), int32 `[batch, length]`."""
    if segment_ids is None:
        return jnp.full(shape[:2], shape[1] - 1, jnp.int32)
    return shape[1] - 1 - segment_starts(segment_ids[:, ::-1], shape)[:, ::-1]


def visible_range(
    masking: Masking, segment_ids: jax.Array | None, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The first and the last key that each query sees, int32 `[batch, length]` each.

    Everything that can be asked for is such a range, it always holds the query's own place, and both ends grow along a
    row: so blocks of keys that a block of queries does not see are known from its first and its last query.
    """
    index = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape[:2])
    whole = jnp.abs(segment_ids) if masking.prefix else segment_ids
    first = segment_starts(whole, shape)
    last = index if masking.causal else segment_ends(whole, shape)
    if masking.prefix:
        last = jnp.where(segment_ids < 0, jnp.maximum(last, segment_ends(segment_ids, shape)), last)
    if masking.window is not None:
        first = jnp.maximum(first, index - (masking.window - 1))
        last = jnp.minimum(last, index + (masking.window - 1))
    return first, last
