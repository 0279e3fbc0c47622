"""One block of queries against one block of keys, for all heads at once: memory linear in length, on any device.

The running softmax is Milakov and Gimelshein's (2018); the backward pass is written out, as in attention_mapped.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import along, by_head, capped, dot, named, uncapped
from maxllm.kernels.masking import MASKED, Masking

BLOCK = 128


def blockwise(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    """Blocks of keys that no row of the batch sees from a block of queries are skipped."""
    function = functools.partial(_blockwise, masking)
    block = min(BLOCK, query.shape[1])
    return by_head(function, query, key, value, segment_ids, masking, multiple=block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(masking: Masking, *inputs: jax.Array) -> jax.Array:
    return _forward(masking, *inputs)[0]


def _forward(masking: Masking, *inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    blocks = _Blocks(*inputs)
    mixed, denominator = named(*jax.vmap(functools.partial(_scan_forward, masking, blocks))(*inputs))
    return mixed, (*inputs, mixed, denominator)


def _backward(masking: Masking, saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    blocks = _Blocks(*saved[:5])
    gradients = jax.vmap(functools.partial(_scan_backward, masking, blocks))(*saved, gradient)
    return *gradients, None, None


_blockwise.defvjp(_forward, _backward)


class _Blocks:
    """All heads cut alike into `count` blocks of `size` positions, and which of them some head needs together.

    Both ends of what a row sees grow along it. So the keys that a block of queries sees end with its last row's, and
    the queries that see a block of keys are those between the first whose range reaches it and the last.
    """

    def __init__(self, query: jax.Array, key: jax.Array, value: jax.Array, first: jax.Array, last: jax.Array):
        self.length = key.shape[1]
        self.group = query.shape[1] // self.length
        self.size = min(BLOCK, self.length)
        self.count = self.length // self.size
        rows = self.size * self.group
        begins, ends = first[:, ::rows] // self.size, last[:, rows - 1 :: rows] // self.size
        self.first_keys, self.last_keys = begins.min(axis=0), ends.max(axis=0)  # of each block of queries
        every = jnp.arange(self.count)
        self.first_queries = (self.last_keys < every[:, None]).sum(axis=1)  # of each block of keys
        self.last_queries = (self.first_keys <= every[:, None]).sum(axis=1) - 1

    def queries(self, x: jax.Array, block: jax.Array) -> jax.Array:
        rows = self.size * self.group
        return jax.lax.dynamic_slice_in_dim(x, block * rows, rows)

    def keys(self, x: jax.Array, block: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, block * self.size, self.size)

    def visible(self, first: jax.Array, last: jax.Array, block: jax.Array, key_block: jax.Array) -> jax.Array:
        index = key_block * self.size + jnp.arange(self.size)
        return (self.queries(first, block)[:, None] <= index) & (index <= self.queries(last, block)[:, None])


def _scan_forward(
    masking: Masking,
    blocks: _Blocks,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    last: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The output `[rows, head_dim]`, and log Σ exp(scores) `[rows]`."""

    def one(block: jax.Array) -> tuple[jax.Array, jax.Array]:
        at = blocks.queries(query, block)

        def absorb(key_block: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            top, total, mixed = carry
            scores = capped(dot(at, blocks.keys(key, key_block).T), masking)
            scores = jnp.where(blocks.visible(first, last, block, key_block), scores, MASKED)
            new_top = jnp.maximum(top, scores.max(axis=-1))
            weights, shrink = jnp.exp(scores - new_top[:, None]), jnp.exp(top - new_top)
            part = dot(weights.astype(value.dtype), blocks.keys(value, key_block))
            return new_top, total * shrink + weights.sum(axis=-1), mixed * shrink[:, None] + part

        rows = at.shape[0]
        # A block in which a row sees nothing adds exp(0) per key; the first visible score shrinks that to nothing,
        # and there is one: its own.
        empty = (jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros(at.shape, jnp.float32))
        begin, end = blocks.first_keys[block], blocks.last_keys[block] + 1
        top, total, mixed = jax.lax.fori_loop(begin, end, absorb, empty)
        return (mixed / total[:, None]).astype(query.dtype), top + jnp.log(total)

    mixed, denominator = jax.lax.map(one, jnp.arange(blocks.count))
    return mixed.reshape(query.shape), denominator.reshape(-1)


def _scan_backward(
    masking: Masking,
    blocks: _Blocks,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    last: jax.Array,
    mixed: jax.Array,
    denominator: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    d_sums = along(mixed, gradient)

    def d_scores(block: jax.Array, key_block: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = capped(dot(blocks.queries(query, block), blocks.keys(key, key_block).T), masking)
        weights = jnp.exp(scores - blocks.queries(denominator, block)[:, None])
        weights = jnp.where(blocks.visible(first, last, block, key_block), weights, 0.0)
        d_weights = dot(blocks.queries(gradient, block), blocks.keys(value, key_block).T)
        d = uncapped(weights * (d_weights - blocks.queries(d_sums, block)[:, None]), scores, masking)
        return d.astype(query.dtype), weights.astype(query.dtype)

    def for_queries(block: jax.Array) -> jax.Array:
        def absorb(key_block: jax.Array, d_query: jax.Array) -> jax.Array:
            return d_query + dot(d_scores(block, key_block)[0], blocks.keys(key, key_block))

        zero = jnp.zeros((blocks.size * blocks.group, query.shape[1]), jnp.float32)
        begin, end = blocks.first_keys[block], blocks.last_keys[block] + 1
        return jax.lax.fori_loop(begin, end, absorb, zero).astype(query.dtype)

    def for_keys(key_block: jax.Array) -> tuple[jax.Array, jax.Array]:
        def absorb(block: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            d, weights = d_scores(block, key_block)
            d_key = carry[0] + dot(d.T, blocks.queries(query, block))
            return d_key, carry[1] + dot(weights.T, blocks.queries(gradient, block))

        zero = jnp.zeros((blocks.size, key.shape[1]), jnp.float32)
        begin, end = blocks.first_queries[key_block], blocks.last_queries[key_block] + 1
        d_key, d_value = jax.lax.fori_loop(begin, end, absorb, (zero, zero))
        return d_key.astype(key.dtype), d_value.astype(value.dtype)

    every = jnp.arange(blocks.count)
    d_key, d_value = jax.lax.map(for_keys, every)
    return jax.lax.map(for_queries, every).reshape(query.shape), d_key.reshape(key.shape), d_value.reshape(value.shape)
