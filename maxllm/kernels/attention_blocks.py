"""Attention a block of queries at a time, with the backward pass written out (Dao et al. 2022).

Both keep only the output and the logarithm of each softmax's denominator, and compute the scores again backward:
with P the weights, O = P V and D = rowsum(dO · O), dV = Pᵀ dO, dS = P · (dO Vᵀ - D), dQ = dS K, dK = dSᵀ Q.

One head is `query` `[rows, head_dim]` (already scaled), `key` and `value` `[length, head_dim]`; the `group` query heads
that share a key are interleaved in the rows, row = position · group + head, so that grouped-query attention is the
same matrix products, only taller. A row sees the keys from `start` `[rows]` to its own position.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

MASKED = -1e30
BLOCK = 128
# Blocks of one head are unrolled in `mapped`: past this many they grow instead.
UNROLLED = 8

Head = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def mapped(query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> jax.Array:
    """One head of one row of the batch after another: a head's scores never leave a core's cache.

    On a CPU this is what decides: batched over heads, the scores travel through memory five times. Blocks of queries
    see only the keys up to their own end, which saves almost half the work.
    """
    return _by_head(_mapped, query, key, value, starts)


def blockwise(query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> jax.Array:
    """All heads at once, one block of queries against one block of keys: memory linear in length."""
    length = query.shape[1]
    short = -length % min(BLOCK, length)
    # Keys added at the end come after every real query, which therefore does not see them.
    padded = [jnp.pad(x, ((0, 0), (0, short), *((0, 0),) * (x.ndim - 2))) for x in (query, key, value, starts)]
    return _by_head(_blockwise, *padded)[:, :length]


def _by_head(function: Any, query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> jax.Array:
    """Calls `function` on arrays with a leading axis of batch · kv_heads, and puts its result back in place."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    group = heads // kv_heads

    # [batch, length, kv_heads · n, head_dim] -> [batch · kv_heads, length · n, head_dim]
    def fold(x: jax.Array) -> jax.Array:
        x = x.reshape(batch, length, kv_heads, -1, head_dim).swapaxes(1, 2)
        return x.reshape(batch * kv_heads, -1, head_dim)

    scaled = (query.astype(jnp.float32) * head_dim**-0.5).astype(query.dtype)
    rows = jnp.repeat(jnp.repeat(starts, group, axis=1), kv_heads, axis=0)
    mixed = function(fold(scaled), fold(key), fold(value), rows)
    mixed = mixed.reshape(batch, kv_heads, length, group, head_dim).swapaxes(1, 2)
    return mixed.reshape(batch, length, heads, head_dim)


def _named(mixed: jax.Array, denominator: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Names for rematerialisation: with these two saved, a backward pass need not run the forward again."""
    return checkpoint_name(mixed, "attention"), checkpoint_name(denominator, "attention_denominator")


# --- one head at a time


@jax.custom_vjp
def _mapped(query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> jax.Array:
    return _mapped_forward(query, key, value, starts)[0]


def _mapped_forward(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mixed, denominator = _named(*jax.lax.map(lambda head: _head_forward(*head), inputs))
    return mixed, (*inputs, mixed, denominator)


def _mapped_backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    d_query, d_key, d_value = jax.lax.map(lambda head: _head_backward(*head), (*saved, gradient))
    return d_query, d_key.swapaxes(1, 2), d_value.swapaxes(1, 2), None


_mapped.defvjp(_mapped_forward, _mapped_backward)


def _spans(rows: int, length: int) -> list[tuple[slice, slice]]:
    """Blocks of queries, and the keys that any of them may see."""
    group = rows // length
    block = max(BLOCK, -(-length // UNROLLED))
    ends = [min(begin + block, length) for begin in range(0, length, block)]
    begins = [0, *ends[:-1]]
    return [(slice(a * group, b * group), slice(0, b)) for a, b in zip(begins, ends, strict=True)]


def _visible(starts: jax.Array, at: slice, keys: slice, group: int) -> jax.Array:
    """Comparing each row's start with the key's index, not two segment ids: XLA's CPU backend vectorises this one."""
    index = jnp.arange(keys.stop)
    return (jnp.arange(at.start, at.stop)[:, None] // group >= index) & (index >= starts[at, None])


def _head_forward(query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The output `[rows, head_dim]`, and log Σ exp(scores) `[rows]`."""
    outputs, denominators = [], []
    group = query.shape[0] // key.shape[0]
    for at, keys in _spans(query.shape[0], key.shape[0]):
        scores = _dot(query[at], key[keys].T)
        scores = jnp.where(_visible(starts, at, keys, group), scores, MASKED)
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        outputs.append((_dot(weights.astype(value.dtype), value[keys]) / total).astype(query.dtype))
        denominators.append((top + jnp.log(total))[:, 0])
    return jnp.concatenate(outputs), jnp.concatenate(denominators)


def _head_backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    starts: jax.Array,
    mixed: jax.Array,
    denominator: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, keyᵀ and valueᵀ: transposed, the products of that pass run twice as fast on a CPU."""
    along = (mixed.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(axis=-1)
    d_query = []
    d_key = jnp.zeros(key.shape[::-1], jnp.float32)
    d_value = jnp.zeros(value.shape[::-1], jnp.float32)
    group = query.shape[0] // key.shape[0]
    for at, keys in _spans(query.shape[0], key.shape[0]):
        weights = jnp.exp(_dot(query[at], key[keys].T) - denominator[at, None])
        weights = jnp.where(_visible(starts, at, keys, group), weights, 0.0)
        d_scores = weights * (_dot(gradient[at], value[keys].T) - along[at, None])
        d_scores, weights = d_scores.astype(query.dtype), weights.astype(query.dtype)
        d_query.append(_dot(d_scores, key[keys]))
        d_key = d_key.at[:, keys].add(_dot(query[at].T, d_scores))
        d_value = d_value.at[:, keys].add(_dot(gradient[at].T, weights))
    return jnp.concatenate(d_query).astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


# --- all heads at once


@jax.custom_vjp
def _blockwise(query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> jax.Array:
    return _blockwise_forward(query, key, value, starts)[0]


def _blockwise_forward(*inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mixed, denominator = _named(*jax.vmap(_scan_forward)(*inputs))
    return mixed, (*inputs, mixed, denominator)


def _blockwise_backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    return *jax.vmap(_scan_backward)(*saved, gradient), None


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


class _Blocks:
    """A head cut into `count` blocks of queries and of keys; its length is a multiple of BLOCK, or shorter than one."""

    def __init__(self, query: jax.Array, key: jax.Array, starts: jax.Array):
        self.length = key.shape[0]
        self.group = query.shape[0] // self.length
        self.size = min(BLOCK, self.length)
        self.count = self.length // self.size
        self.starts = starts

    def queries(self, x: jax.Array, block: jax.Array) -> jax.Array:
        rows = self.size * self.group
        return jax.lax.dynamic_slice_in_dim(x, block * rows, rows)

    def keys(self, x: jax.Array, block: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, block * self.size, self.size)

    def visible(self, block: jax.Array, key_block: jax.Array) -> jax.Array:
        position = block * self.size + jnp.arange(self.size * self.group) // self.group
        index = key_block * self.size + jnp.arange(self.size)
        return (position[:, None] >= index) & (index >= self.queries(self.starts, block)[:, None])


def _scan_forward(query: jax.Array, key: jax.Array, value: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Milakov and Gimelshein's running softmax over the blocks of keys that a block of queries may see."""
    blocks = _Blocks(query, key, starts)

    def one(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = blocks.queries(query, block)

        def absorb(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            top, total, mixed = carry
            scores = _dot(at, blocks.keys(key, key_block).T)
            scores = jnp.where(blocks.visible(block, key_block), scores, MASKED)
            new_top = jnp.maximum(top, scores.max(axis=-1))
            weights, shrink = jnp.exp(scores - new_top[:, None]), jnp.exp(top - new_top)
            part = _dot(weights.astype(value.dtype), blocks.keys(value, key_block))
            return new_top, total * shrink + weights.sum(axis=-1), mixed * shrink[:, None] + part

        rows = at.shape[0]
        # A block in which a row sees nothing adds exp(0) per key; the first visible score shrinks that to nothing,
        # and there is one: its own.
        empty = (jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros(at.shape, jnp.float32))
        top, total, mixed = jax.lax.fori_loop(0, block + 1, absorb, empty)
        return (mixed / total[:, None]).astype(query.dtype), top + jnp.log(total)

    mixed, denominator = jax.lax.map(one, jnp.arange(blocks.count))
    return mixed.reshape(query.shape), denominator.reshape(-1)


def _scan_backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    starts: jax.Array,
    mixed: jax.Array,
    denominator: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    blocks = _Blocks(query, key, starts)
    along = (mixed.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(axis=-1)

    def d_scores(block: jax.Array, key_block: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = _dot(blocks.queries(query, block), blocks.keys(key, key_block).T)
        weights = jnp.exp(scores - blocks.queries(denominator, block)[:, None])
        weights = jnp.where(blocks.visible(block, key_block), weights, 0.0)
        d_weights = _dot(blocks.queries(gradient, block), blocks.keys(value, key_block).T)
        d = weights * (d_weights - blocks.queries(along, block)[:, None])
        return d.astype(query.dtype), weights.astype(query.dtype)

    def for_queries(block: jax.Array) -> jax.Array:
        def absorb(key_block: jax.Array, d_query: jax.Array) -> jax.Array:
            return d_query + _dot(d_scores(block, key_block)[0], blocks.keys(key, key_block))

        zero = jnp.zeros((blocks.size * blocks.group, query.shape[1]), jnp.float32)
        return jax.lax.fori_loop(0, block + 1, absorb, zero).astype(query.dtype)

    def for_keys(key_block: jax.Array) -> tuple[jax.Array, jax.Array]:
        def absorb(block: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            d, weights = d_scores(block, key_block)
            d_key = carry[0] + _dot(d.T, blocks.queries(query, block))
            return d_key, carry[1] + _dot(weights.T, blocks.queries(gradient, block))

        zero = jnp.zeros((blocks.size, key.shape[1]), jnp.float32)
        d_key, d_value = jax.lax.fori_loop(key_block, blocks.count, absorb, (zero, zero))
        return d_key.astype(key.dtype), d_value.astype(value.dtype)

    every = jnp.arange(blocks.count)
    d_key, d_value = jax.lax.map(for_keys, every)
    return jax.lax.map(for_queries, every).reshape(query.shape), d_key.reshape(key.shape), d_value.reshape(value.shape)
