"""Attention in chunks of positions against the paper's matrix of relative positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.kernels import query_blocks
from maxllm.models.attention import Places
from maxllm.models.block import make_attention
from maxllm.models.dual_chunk import chunk_rotation
from maxllm.models.rope import frequencies

CONFIG = ModelConfig(
    hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=4, rope_theta=100.0, dual_chunk={"chunk": 5, "local": 2}
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(query_blocks, "BLOCK", 8)


def relative_positions(length: int, s: int, w: int, c: int) -> np.ndarray:
    """An et al. 2024, equations 2 to 7: M[i][j], of a query at i and a key at j before it."""
    keys = np.arange(length) % s
    intra = np.arange(length) % s
    successive = np.array([*range(s, s + w), *[c - 1] * (s - w)])[np.arange(length) % s]
    matrix = np.zeros((length, length), int)
    for i in range(length):
        for j in range(i + 1):
            chunks = i // s - j // s
            matrix[i, j] = (intra[i] if chunks == 0 else successive[i] if chunks == 1 else c - 1) - keys[j]
    return matrix


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1)


def slow(layer, x: np.ndarray, segments: list[int]) -> np.ndarray:
    """One segment, head and query after another, float64."""
    query, key, value, output = (
        np.asarray(getattr(layer, name).kernel[...], np.float64) for name in ("query", "key", "value", "output")
    )
    turns = frequencies(CONFIG.head_size, CONFIG.rope_theta)
    matrix = relative_positions(sum(segments), 5, 2, 5 + 2 + 1)
    rows, begin = [], 0
    for length in segments:
        part = x[begin : begin + length]
        q, k, v = (np.einsum("le,ehd->lhd", part, kernel) for kernel in (query, key, value))
        mixed = np.zeros((length, 4, 4))
        for i in range(length):
            for head in range(4):
                scores = np.array(
                    [turned(q[i, head], matrix[i, j] * turns) @ k[j, head // 2] for j in range(i + 1)]
                ) / np.sqrt(4)
                weights = np.exp(scores - scores.max())
                mixed[i, head] = weights / weights.sum() @ v[: i + 1, head // 2]
        rows.append(np.einsum("lhd,hde->le", mixed, output))
        begin += length
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def layer():
    return make(CONFIG.model_copy(update={"init_std": 0.6}))


def make(config: ModelConfig):
    """A layer whose parameters are made in one program."""
    structure, _ = nnx.split(nnx.eval_shape(lambda: build(config)))
    return nnx.merge(structure, jax.jit(lambda: nnx.split(build(config))[1])())


def build(config: ModelConfig):
    return make_attention(config, backend="auto", context="ring", rngs=nnx.Rngs(0))


def places(positions) -> Places:
    positions = jnp.asarray(positions, jnp.int32)
    return Places(positions, chunk_rotation(positions, CONFIG))


@pytest.mark.parametrize("segments", [[19], [9], [7, 1, 11]], ids=str)
def test_it_is_the_papers_definition_packed_or_not(layer, segments):
    x = np.random.default_rng(0).normal(size=(sum(segments), 16)).astype(np.float32)
    positions = [[*np.concatenate([np.arange(n) for n in segments])]]
    ids = jnp.asarray([np.repeat(np.arange(1, len(segments) + 1), segments)])
    got = jax.jit(lambda *arrays: layer(arrays[0], places(arrays[1]), arrays[2]))(x[None], jnp.asarray(positions), ids)
    np.testing.assert_allclose(got[0], slow(layer, x, segments), atol=1e-5)


def test_the_cache_gives_the_papers_definition_token_for_token(layer):
    x = np.random.default_rng(1).normal(size=(19, 16)).astype(np.float32)
    keys = values = jnp.zeros((1, 1, 2, 24, 4))
    extend = jax.jit(lambda x, positions, *cache: layer.extend(x, places(positions), *cache, 0, 24))
    parts = []
    for begin, end in [(0, 8), *((at, at + 1) for at in range(8, 19))]:
        part = jnp.asarray(x[None, begin:end])
        out, keys, values = extend(part, jnp.arange(begin, end)[None], keys, values)
        parts.append(out[0])
    np.testing.assert_allclose(np.concatenate(parts), slow(layer, x, [19]), atol=1e-5)


def test_a_row_that_fits_in_one_chunk_is_plain_attention(layer):
    structure, _ = nnx.split(nnx.eval_shape(lambda: build(CONFIG.model_copy(update={"dual_chunk": None}))))
    plain = nnx.merge(structure, nnx.state(layer))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5, 16)), jnp.float32)

    def both(x):
        at = places([range(5)])
        return layer(x, at), plain(x, at._replace(rotation=at.rotation.intra))

    np.testing.assert_array_equal(*jax.jit(both)(x))


def test_near_keys_keep_their_distance_and_no_distance_is_new():
    i, j = np.tril_indices(60)
    matrix = relative_positions(60, 20, 8, 29)[i, j]
    np.testing.assert_array_equal(matrix[i - j <= 8], (i - j)[i - j <= 8])
    assert matrix.max() == 28 and matrix.min() == 0
