"""A stretch of queries against a stretch of keys of the same row: the piece that context parallelism repeats.

`query` `[batch, kv_heads, rows, head_dim]` (already scaled; the `group` heads that share a key are interleaved, row =
place · group + head), `key` and `value` `[batch, kv_heads, keys, head_dim]`. `first` and `last` int32
`[batch, rows / group]`: the keys that each query sees, as indices in the whole row; `key_at`: that of the first key.
Both grow along the queries. Blocks of keys that a block of queries does not see are not computed, whatever hides them:
another segment, the window, the order of tokens. Memory is linear: one block of scores at a time.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import capped, uncapped
from maxllm.kernels.masking import MASKED, Masking
from maxllm.parallel.target import platform

CPU_BLOCK, BLOCK = 128, 512  # queries, and keys, whose scores exist at once


def forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    last: jax.Array,
    key_at: jax.Array | int,
    masking: Masking,
) -> tuple[jax.Array, jax.Array]:
    """Float32 output `[batch, kv_heads, rows, head_dim]` and log Σ exp(scores) `[batch, kv_heads, rows]`.

    A query that sees none of these keys has a logarithm so small that `merged` forgets its output.
    """
    blocks = _Blocks(query, key, first - key_at, last - key_at)
    queries, keys, values = blocks.padded_queries(query), blocks.padded_keys(key), blocks.padded_keys(value)

    def one(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = blocks.queries(queries, block)
        begin, end, visible = blocks.seen_by(block)

        def absorb(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            top, total, mixed = carry
            scores = capped(_scores(at, blocks.keys(keys, key_block)), masking)
            scores = jnp.where(visible(key_block), scores, MASKED)
            new_top = jnp.maximum(top, scores.max(axis=-1))
            weights, shrink = jnp.exp(scores - new_top[..., None]), jnp.exp(top - new_top)
            part = _mix(weights.astype(value.dtype), blocks.keys(values, key_block))
            return new_top, total * shrink + weights.sum(axis=-1), mixed * shrink[..., None] + part

        rows = at.shape[:-1]
        empty = (jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros(at.shape, jnp.float32))
        top, total, mixed = jax.lax.fori_loop(begin, end, absorb, empty)
        total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
        return mixed / total[..., None], top + jnp.log(total)

    mixed, denominator = jax.lax.map(one, jnp.arange(blocks.count))  # [blocks, batch, kv_heads, rows of a block, ...]
    return blocks.joined(mixed), blocks.joined(denominator)


def merged(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The output and logarithm over two sets of keys from those over each."""
    denominator = jnp.logaddexp(a[1], b[1])
    return sum(mixed * jnp.exp(own - denominator)[..., None] for mixed, own in (a, b)), denominator


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    last: jax.Array,
    key_at: jax.Array | int,
    masking: Masking,
    denominator: jax.Array,
    sums: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Float32 d query, d key and d value of this pair alone.

    `denominator`: over all keys of the row, and `sums` = rowsum(output · gradient), both `[batch, kv_heads, rows]`.
    With P = exp(S - denominator): dV = Pᵀ dO, dS = P · (dO Vᵀ - sums), dQ = dS K, dK = dSᵀ Q (Dao et al. 2022).
    """
    blocks = _Blocks(query, key, first - key_at, last - key_at)
    queries, gradients, denominators, all_sums = (
        blocks.padded_queries(x) for x in (query, gradient, denominator, sums)
    )
    keys, values = blocks.padded_keys(key), blocks.padded_keys(value)

    def one(d_key_and_value: tuple[jax.Array, jax.Array], block: jax.Array):
        at, d_at = blocks.queries(queries, block), blocks.queries(gradients, block)
        own, own_sums = (blocks.queries(x, block)[..., None] for x in (denominators, all_sums))
        begin, end, visible = blocks.seen_by(block)

        def absorb(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            d_query, d_key, d_value = carry
            some, its_value = blocks.keys(keys, key_block), blocks.keys(values, key_block)
            scores = capped(_scores(at, some), masking)
            weights = jnp.where(visible(key_block), jnp.exp(scores - own), 0.0)
            d_scores = uncapped(weights * (_scores(d_at, its_value) - own_sums), scores, masking)
            d_scores, weights = d_scores.astype(query.dtype), weights.astype(query.dtype)
            d_key = blocks.add(d_key, key_block, _gathered(d_scores, at))
            d_value = blocks.add(d_value, key_block, _gathered(weights, d_at))
            return d_query + _mix(d_scores, some), d_key, d_value

        empty = jnp.zeros(at.shape, jnp.float32)
        d_query, *d_key_and_value = jax.lax.fori_loop(begin, end, absorb, (empty, *d_key_and_value))
        return tuple(d_key_and_value), d_query

    empty = (jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32))
    (d_key, d_value), d_query = jax.lax.scan(one, empty, jnp.arange(blocks.count))
    return blocks.joined(d_query), d_key[:, :, : key.shape[2]], d_value[:, :, : key.shape[2]]


class _Blocks:
    """Queries cut into `count` blocks, keys into `key_count`; the last of each is filled up with what sees nothing."""

    def __init__(self, query: jax.Array, key: jax.Array, first: jax.Array, last: jax.Array):
        self.places, self.keys_here = first.shape[1], key.shape[2]
        self.group = query.shape[2] // self.places
        largest = CPU_BLOCK if platform() == "cpu" else BLOCK
        self.count, self.size = _cut(self.places, largest)
        self.key_count, self.key_size = _cut(self.keys_here, largest)
        short = self.count * self.size - self.places
        nothing = functools.partial(jnp.pad, pad_width=((0, 0), (0, short)))
        self.first = nothing(first, constant_values=jnp.iinfo(jnp.int32).max)
        self.last = nothing(jnp.minimum(last, self.keys_here - 1), constant_values=-1)

    def padded_queries(self, x: jax.Array) -> jax.Array:
        return _padded(x, (self.count * self.size - self.places) * self.group)

    def padded_keys(self, x: jax.Array) -> jax.Array:
        return _padded(x, self.key_count * self.key_size - self.keys_here)

    def queries(self, x: jax.Array, block: jax.Array) -> jax.Array:
        rows = self.size * self.group
        return jax.lax.dynamic_slice_in_dim(x, block * rows, rows, axis=2)

    def keys(self, x: jax.Array, block: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, block * self.key_size, self.key_size, axis=2)

    def add(self, x: jax.Array, block: jax.Array, more: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, self.keys(x, block) + more, block * self.key_size, axis=2)

    def seen_by(self, block: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
        """The first block of keys and the one after the last, and a mask `[batch, 1, rows, key_size]` for each."""
        first, last = (
            jax.lax.dynamic_slice_in_dim(x, block * self.size, self.size, axis=1) for x in (self.first, self.last)
        )
        begin, end = (
            jnp.clip(x, 0, self.key_count)
            for x in (first.min() // self.key_size, jnp.floor_divide(last.max(), self.key_size) + 1)
        )
        first, last = (jnp.repeat(x, self.group, axis=1)[:, None, :, None] for x in (first, last))

        def visible(key_block: jax.Array) -> jax.Array:
            index = key_block * self.key_size + jnp.arange(self.key_size)
            return (first <= index) & (index <= last)

        return begin, end, visible

    def joined(self, x: jax.Array) -> jax.Array:
        """`[count, batch, kv_heads, rows of a block, ...]` as `[batch, kv_heads, rows, ...]`."""
        x = jnp.moveaxis(x, 0, 2)
        x = x.reshape(*x.shape[:2], -1, *x.shape[4:])
        return x[:, :, : self.places * self.group]


def _cut(size: int, largest: int) -> tuple[int, int]:
    count = -(-size // largest)
    return count, -(-size // count)


def _padded(x: jax.Array, short: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, short), *((0, 0),) * (x.ndim - 3))) if short else x


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)


def _mix(weights: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=jnp.float32)


def _gathered(weights: jax.Array, query: jax.Array) -> jax.Array:
    return jnp.einsum("bhqk,bhqd->bhkd", weights, query, preferred_element_type=jnp.float32)
