"""Attention with a bias by distance against its definition, forward and backward."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.config.parallel import MeshConfig
from maxllm.kernels import query_blocks
from maxllm.kernels.attention_distance import by_distance, distance_attention
from maxllm.kernels.masking import CAUSAL, Masking
from maxllm.parallel.mesh import make_mesh

BOTH_WAYS = Masking(causal=False)
run = jax.jit(distance_attention, static_argnames="masking")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(query_blocks, "BLOCK", 4)


def inputs(queries: int, keys: int, heads: int = 4, kv_heads: int = 2, head_dim: int = 4, batch: int = 2):
    random = np.random.default_rng(queries)
    shapes = [(queries, heads, head_dim), (keys, kv_heads, head_dim), (keys, kv_heads, 3)]
    arrays = [random.normal(size=(batch, *shape)).astype(np.float32) for shape in shapes]
    return arrays, random.normal(size=(heads, queries + keys - 1)).astype(np.float32)


def slow(query, key, value, bias, ids, key_ids, masking):
    """One query and one head at a time, in float64, from the formula."""
    batch, queries, heads, head_dim = query.shape
    group = heads // key.shape[2]
    output = np.zeros((batch, queries, heads, value.shape[-1]))
    for b, q, h in itertools.product(range(batch), range(queries), range(heads)):
        scores, seen = [], []
        for k in range(key.shape[1]):
            if ids[b, q] != key_ids[b, k] or (masking.causal and k > q):
                continue
            if masking.window is not None and abs(k - q) >= masking.window:
                continue
            score = masking.scale_for(head_dim) * np.dot(query[b, q, h], key[b, k, h // group].astype(np.float64))
            if masking.softcap is not None:
                score = masking.softcap * np.tanh(score / masking.softcap)
            scores.append(score + bias[h, k - q + queries - 1])
            seen.append(value[b, k, h // group])
        if seen:
            weights = np.exp(np.array(scores) - max(scores))
            output[b, q, h] = weights / weights.sum() @ np.array(seen)
    return output


def test_a_bias_by_distance_becomes_a_matrix_by_places():
    bias = np.arange(2 * 8.0).reshape(2, 8)
    want = [[[bias[h, k - q + 2] for k in range(6)] for q in range(3)] for h in range(2)]
    np.testing.assert_array_equal(by_distance(jnp.asarray(bias), 3), want)


@pytest.mark.parametrize(
    "masking", [CAUSAL, Masking(causal=False, window=3, softcap=2.0, scale=0.7)], ids=["causal", "window-softcap"]
)
def test_a_packed_sequence_with_itself_is_the_definition(masking):
    arrays, bias = inputs(11, 11)
    ids = np.array([[1] * 5 + [2] + [3] * 3 + [0] * 2, [1] * 11])
    got = run(*arrays, bias, ids, masking=masking)
    np.testing.assert_allclose(got, slow(*arrays, bias, ids, ids, masking), atol=2e-6)


def test_two_sequences_of_different_lengths_are_the_definition():
    arrays, bias = inputs(6, 9)
    ids, key_ids = np.array([[1, 1, 2, 2, 2, 0], [1] * 6]), np.array([[1, 2, 2, 2, 2, 2, 3, 3, 3], [1] * 7 + [0] * 2])
    got = run(*arrays, bias, ids, key_ids, masking=BOTH_WAYS)
    np.testing.assert_allclose(got, slow(*arrays, bias, ids, key_ids, BOTH_WAYS), atol=2e-6)
    assert not got[0, 5].any()  # padding whose other side has none sees nothing, and is no NaN
    got = run(*arrays, None, ids, key_ids, masking=BOTH_WAYS)
    np.testing.assert_allclose(got, slow(*arrays, 0 * bias, ids, key_ids, BOTH_WAYS), atol=2e-6)


def values(arrays, bias, ids):
    def both(*inputs):
        output, pull = jax.vjp(lambda *x: distance_attention(*x, ids), *inputs)
        return output, *pull(jnp.cos(output))

    return jax.jit(both)(*arrays, bias)


def test_gradients_are_those_of_the_sum_written_down_also_spread_over_devices():
    arrays, bias = inputs(10, 10, batch=4)
    ids = jnp.asarray([[1] * 6 + [2] * 4] * 4)

    def plain(query, key, value, bias):
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, jnp.repeat(key, 2, axis=2)) / 2
        place = jnp.arange(10)
        scores += bias[:, place - place[:, None] + 9]
        allowed = (ids[:, None, :, None] == ids[:, None, None, :]) & (place <= place[:, None])
        weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, jnp.repeat(value, 2, axis=2))

    output, pull = jax.vjp(jax.jit(plain), *map(jnp.asarray, arrays), jnp.asarray(bias))
    want = output, *pull(jnp.cos(output))
    got = values(arrays, bias, ids)
    with jax.set_mesh(make_mesh(MeshConfig(data=4, tensor=2))):
        spread = values(arrays, bias, ids)
    for a, b, c in zip(want, got, spread, strict=True):
        np.testing.assert_allclose(b, a, atol=3e-6)
        np.testing.assert_allclose(c, a, atol=3e-6)


def test_memory_grows_linearly_with_length(monkeypatch):
    monkeypatch.setattr(query_blocks, "BLOCK", 32)

    def temporary_bytes(length):
        arrays, bias = inputs(length, length, heads=1, kv_heads=1, batch=1)
        gradients = jax.jit(jax.grad(lambda *x: distance_attention(*x).sum(), argnums=(0, 1, 2, 3)))
        return gradients.lower(*arrays, bias).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(2048) < 2.5 * temporary_bytes(1024)
