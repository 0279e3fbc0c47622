"""One head of one row of the batch after another: a head's scores never leave a core's cache.

On a CPU this is what decides: batched over heads, the scores travel through memory five times. The backward pass is
written out (Dao et al. 2022): it keeps the output and the logarithm of each softmax's denominator, and computes the
scores again. With P the weights, O = P V and D = rowsum(dO · O), dV = Pᵀ dO, dS = P · (dO Vᵀ - D), dQ = dS K,
dK = dSᵀ Q.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from maxllm.kernels.attention_heads import along, by_head, capped, dot, named, uncapped
from maxllm.kernels.masking import MASKED, Masking

BLOCK = 128
# The blocks of one head are unrolled: past this many they grow instead.
UNROLLED = 8


def mapped(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking
) -> jax.Array:
    """Blocks of queries are multiplied only with the keys that causality and the window leave them."""
    return by_head(functools.partial(_mapped, masking), query, key, value, segment_ids, masking)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mapped(masking: Masking, *inputs: jax.Array) -> jax.Array:
    return _forward(masking, *inputs)[0]


def _forward(masking: Masking, *inputs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mixed, denominator = named(*jax.lax.map(lambda head: _head_forward(masking, *head), inputs))
    return mixed, (*inputs, mixed, denominator)


def _backward(masking: Masking, saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    d_query, d_key, d_value = jax.lax.map(lambda head: _head_backward(masking, *head), (*saved, gradient))
    return d_query, d_key.swapaxes(1, 2), d_value.swapaxes(1, 2), None, None


_mapped.defvjp(_forward, _backward)


def _spans(rows: int, length: int, masking: Masking) -> list[tuple[slice, slice]]:
    """Blocks of query rows, and the keys that any of them may see."""
    group = rows // length
    block = max(BLOCK, -(-length // UNROLLED))
    reach = length if masking.window is None else masking.window - 1
    spans = []
    for begin in range(0, length, block):
        end = min(begin + block, length)
        after = 0 if masking.causal and not masking.prefix else reach
        keys = slice(max(begin - reach, 0), min(end + after, length))
        spans.append((slice(begin * group, end * group), keys))
    return spans


def _visible(first: jax.Array, last: jax.Array, at: slice, keys: slice) -> jax.Array:
    """Comparing each row's bounds with the key's index, not two segment ids: XLA's CPU backend vectorises this one."""
    index = jnp.arange(keys.start, keys.stop)
    return (first[at, None] <= index) & (index <= last[at, None])


def _head_forward(
    masking: Masking, query: jax.Array, key: jax.Array, value: jax.Array, first: jax.Array, last: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The output `[rows, head_dim]`, and log Σ exp(scores) `[rows]`."""
    outputs, denominators = [], []
    for at, keys in _spans(query.shape[0], key.shape[0], masking):
        scores = capped(dot(query[at], key[keys].T), masking)
        scores = jnp.where(_visible(first, last, at, keys), scores, MASKED)
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        outputs.append((dot(weights.astype(value.dtype), value[keys]) / total).astype(query.dtype))
        denominators.append((top + jnp.log(total))[:, 0])
    return jnp.concatenate(outputs), jnp.concatenate(denominators)


def _head_backward(
    masking: Masking,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    first: jax.Array,
    last: jax.Array,
    mixed: jax.Array,
    denominator: jax.Array,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, keyᵀ and valueᵀ: transposed, the products of that pass run twice as fast on a CPU."""
    d_sums = along(mixed, gradient)
    d_query = []
    d_key = jnp.zeros(key.shape[::-1], jnp.float32)
    d_value = jnp.zeros(value.shape[::-1], jnp.float32)
    for at, keys in _spans(query.shape[0], key.shape[0], masking):
        scores = capped(dot(query[at], key[keys].T), masking)
        weights = jnp.where(_visible(first, last, at, keys), jnp.exp(scores - denominator[at, None]), 0.0)
        d_scores = uncapped(weights * (dot(gradient[at], value[keys].T) - d_sums[at, None]), scores, masking)
        d_scores, weights = d_scores.astype(query.dtype), weights.astype(query.dtype)
        d_query.append(dot(d_scores, key[keys]))
        d_key = d_key.at[:, keys].add(dot(query[at].T, d_scores))
        d_value = d_value.at[:, keys].add(dot(gradient[at].T, weights))
    return jnp.concatenate(d_query).astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype)
