"""Norm, rotation and the block's parts against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from maxllm.models.norm import RMSNorm
from maxllm.models.rope import rotate, rotation


def test_rms_norm_is_its_formula_with_statistics_in_float32():
    norm = RMSNorm(8, eps=1e-5)
    norm.weight[...] = jnp.arange(8.0)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * np.arange(8)
    np.testing.assert_allclose(norm(jnp.asarray(x)), want, rtol=1e-5)
    # 300² overflows nothing and 2⁸ + 1 is a number: neither holds for statistics in bfloat16 (or float16).
    coarse = norm(jnp.full((1, 8), 257.0, jnp.bfloat16))
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse[0].astype(jnp.float32), np.arange(8), rtol=1e-2)


def test_rotation_is_hugging_faces_half_split_formula():
    positions, theta, head_dim = np.array([[0, 1, 5000]]), 10000.0, 8
    x = np.random.default_rng(0).normal(size=(1, 3, 2, head_dim)).astype(np.float32)
    frequencies = 1 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    angles = np.concatenate([positions[..., None] * frequencies] * 2, axis=-1)[:, :, None]
    halves = np.concatenate([-x[..., head_dim // 2 :], x[..., : head_dim // 2]], axis=-1)
    want = x * np.cos(angles) + halves * np.sin(angles)
    got = rotate(jnp.asarray(x), rotation(jnp.asarray(positions), head_dim, theta))
    np.testing.assert_allclose(got, want, atol=2e-3)  # float32 angles at position 5000
    np.testing.assert_allclose(got[:, :2], want[:, :2], atol=1e-6)


def test_scores_depend_on_the_distance_between_positions_alone():
    query, key = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in (0, 1))

    def score(query_at, key_at):
        by = [rotation(jnp.asarray([[position]]), 16, 10000.0) for position in (query_at, key_at)]
        return jnp.sum(rotate(query, by[0]) * rotate(key, by[1]))

    np.testing.assert_allclose(score(7, 3), score(107, 103), rtol=1e-4)
    assert abs(score(7, 3) - score(8, 3)) > 1e-3
