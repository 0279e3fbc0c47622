"""Sinusoids and slopes against their papers."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.models.positions import alibi_bias, alibi_slopes, sinusoidal


def test_sinusoids_are_the_papers():
    positions, size = np.array([[0, 1, 2, 700]]), 6
    want = np.zeros((1, 4, size))
    for at, position in enumerate(positions[0]):
        for i in range(size // 2):
            want[0, at, 2 * i] = math.sin(position / 10000 ** (2 * i / size))
            want[0, at, 2 * i + 1] = math.cos(position / 10000 ** (2 * i / size))
    np.testing.assert_allclose(sinusoidal(jnp.asarray(positions), size), want, atol=5e-5)


@pytest.mark.parametrize(
    "heads, want",
    [
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),  # the paper's example
        (2, [1 / 16, 1 / 256]),
        (1, [1 / 256]),
        # The authors' code: 8 heads', then the first, third, ... of 16 heads'.
        (12, [2.0**-i for i in range(1, 9)] + [2.0 ** -(i / 2) for i in (1, 3, 5, 7)]),
        (3, [1 / 16, 1 / 256, 1 / 4]),
    ],
)
def test_slopes_are_press_et_als_also_where_heads_are_no_power_of_two(heads, want):
    np.testing.assert_allclose(alibi_slopes(heads), want)


def test_a_bias_falls_with_distance_either_way():
    got = alibi_bias(jnp.array([-2, 0, 1]), 2)
    np.testing.assert_allclose(got, [[-2 / 16, 0, -1 / 16], [-2 / 256, 0, -1 / 256]])
