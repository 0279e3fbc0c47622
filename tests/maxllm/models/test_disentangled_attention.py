"""Disentangled attention beside loops over its formula, its buckets beside what the paper says of them."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.model_parts import EncoderConfig
from maxllm.models.attention import Places
from maxllm.models.disentangled_attention import DisentangledAttention, rows_of_distances, span

SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8])


def row_of(distance: int, encoder: EncoderConfig) -> int:
    """δ of He et al. 2020, equation 3; with buckets, of the authors' code: whole up to half of them, then by logs."""
    furthest, buckets = encoder.relative_positions, encoder.position_buckets
    if buckets and abs(distance) > buckets // 2:
        share = math.log(abs(distance) / (buckets // 2)) / math.log((furthest - 1) / (buckets // 2))
        distance = int(math.copysign(math.ceil(share * (buckets // 2 - 1)) + buckets // 2, distance))
    k = buckets or furthest
    return 0 if distance <= -k else 2 * k - 1 if distance >= k else distance + k


def slowly(layer: DisentangledAttention, x: np.ndarray, table: np.ndarray, asks: np.ndarray) -> np.ndarray:
    def project(part: str, rows: np.ndarray) -> np.ndarray:
        linear = getattr(layer, part)
        bias = np.asarray(linear.bias[...]) if hasattr(linear, "bias") else 0.0
        return np.einsum("...e,ehd->...hd", rows, np.asarray(linear.kernel[...])) + bias

    encoder = layer.encoder
    shared = encoder.share_attention
    query, key, value = project("query", asks), project("key", x), project("value", x)
    as_key = project("key" if shared else "position_key", table)
    as_query = project("query" if shared else "position_query", table)
    rows, length, heads, width = query.shape
    mixed = np.zeros_like(query)
    for row in range(rows):
        for head in range(heads):
            for i in range(length):
                seen = np.flatnonzero(SEGMENTS[row] == SEGMENTS[row, i])
                scores = []
                for j in seen:
                    at = row_of(i - j, encoder)
                    q, k = query[row, i, head], key[row, j, head]
                    scores.append((q @ k + q @ as_key[at, head] + k @ as_query[at, head]) / math.sqrt(3 * width))
                weights = np.exp(scores - np.max(scores))
                mixed[row, i, head] = weights / weights.sum() @ value[row, seen, head]
    return np.einsum("blhd,hde->ble", mixed, np.asarray(layer.output.kernel[...]))


@pytest.mark.parametrize(
    "encoder",
    [
        EncoderConfig(relative_positions=3, key_bias=False),
        EncoderConfig(relative_positions=9, position_buckets=4, share_attention=True),
    ],
    ids=["v1", "v3"],
)
@pytest.mark.parametrize("asked", ["itself", "queries"])
def test_scores_are_the_papers_sum_over_what_a_segment_holds(encoder, asked):
    random = np.random.default_rng(0)
    layer = DisentangledAttention(16, 2, 8, encoder, std=0.3, rngs=nnx.Rngs(0))
    for _, parameter in nnx.to_flat_state(nnx.state(layer)):  # biases too
        parameter[...] = jnp.asarray(0.3 * random.normal(size=parameter.shape))
    layer.output.bias[...] = jnp.zeros(16)
    x, other = random.normal(size=(2, 2, 8, 16))
    table = random.normal(size=(2 * span(encoder), 16))
    asks = x if asked == "itself" else other
    places = Places(jnp.zeros((2, 8), jnp.int32), relative=jnp.asarray(table, jnp.float32))
    queries = None if asked == "itself" else jnp.asarray(other, jnp.float32)
    got = layer(jnp.asarray(x, jnp.float32), places, jnp.asarray(SEGMENTS), queries=queries)
    np.testing.assert_allclose(got, slowly(layer, x, table, asks), atol=2e-5)


@pytest.mark.parametrize(("furthest", "buckets"), [(512, 256), (512, 0), (64, 24), (16, 4)])
def test_every_distance_has_the_row_that_the_formula_gives_it(furthest, buckets):
    encoder = EncoderConfig(relative_positions=furthest, position_buckets=buckets)
    rows = rows_of_distances(700, encoder)
    assert rows.tolist() == [row_of(distance, encoder) for distance in range(-699, 700)]


def test_a_row_of_one_token_attends_to_itself():
    encoder = EncoderConfig(relative_positions=3)
    layer = DisentangledAttention(16, 2, 8, encoder, std=0.3, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 1, 16))
    places = Places(jnp.zeros((1, 1), jnp.int32), relative=jnp.ones((6, 16)))
    np.testing.assert_allclose(layer(x, places), layer.output(layer.value(x)), atol=1e-6)
