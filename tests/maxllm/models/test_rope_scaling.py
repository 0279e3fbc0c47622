"""Stretched rotary frequencies: as transformers has them, and as the papers say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from maxllm.config.model_parts import RopeScalingConfig
from maxllm.models.rope import attention_factor, frequencies, rotate, rotation

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rope.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_frequencies_and_attention_factor_are_those_of_transformers(name):
    case = GOLDEN[name]
    scaling = RopeScalingConfig(**case["scaling"])
    got = frequencies(case["head_dim"], case["theta"], scaling, case["length"])
    np.testing.assert_allclose(got, case["frequencies"], rtol=5e-7)
    assert attention_factor(scaling) == pytest.approx(case["attention_factor"], rel=1e-12)


def test_interpolation_is_of_positions():
    """Chen et al. 2023, equation 3: f'(x, m) = f(x, m L / L')."""
    x = np.random.default_rng(0).normal(size=(1, 3, 1, 8)).astype(np.float32)
    scaled = rotation(jnp.array([[0, 40, 80]]), 8, 10000.0, RopeScalingConfig(kind="linear", factor=8.0))
    np.testing.assert_allclose(rotate(x, scaled), rotate(x, rotation(jnp.array([[0, 5, 10]]), 8, 10000.0)), atol=1e-5)


def test_ntk_keeps_the_fastest_pair_and_interpolates_the_slowest():
    """Peng et al. 2023, appendix A.1: b' = b s^(d / (d - 2)) interpolates the last pair."""
    scaling = RopeScalingConfig(kind="dynamic", factor=1.0, original_positions=128)
    plain, scaled = frequencies(16, 10000.0), frequencies(16, 10000.0, scaling, 512)
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 4)
    np.testing.assert_array_equal(frequencies(16, 10000.0, scaling, 128), plain)
    np.testing.assert_array_equal(frequencies(16, 10000.0, scaling), plain)


def test_yarn_treats_pairs_by_how_often_they_turn():
    """Peng et al. 2023, section 3.2, alpha 1 and beta 32; section 3.4 for the temperature."""
    scaling = RopeScalingConfig(kind="yarn", factor=8.0, original_positions=4096)
    plain, scaled = frequencies(128, 10000.0), frequencies(128, 10000.0, scaling)
    turns = 4096 * plain / (2 * math.pi)
    np.testing.assert_allclose(scaled[turns > 32], plain[turns > 32])
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
    between = (scaled / plain)[(turns > 1) & (turns < 32)]
    assert (np.diff(between) < 0).all() and 1 / 8 < between.min() < between.max() < 1
    assert attention_factor(scaling) == pytest.approx(0.1 * math.log(8) + 1)


def test_llama_3_treats_pairs_by_their_wavelength():
    """The reference code of Llama 3.1, a pair at a time."""
    scaling = RopeScalingConfig(kind="llama3", factor=8.0, original_positions=8192)
    want = []
    for frequency in frequencies(128, 500000.0):
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            want.append(frequency)
        elif wavelength > 8192 / 1:
            want.append(frequency / 8)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            want.append((1 - smooth) * frequency / 8 + smooth * frequency)
    np.testing.assert_allclose(frequencies(128, 500000.0, scaling), want)


def test_the_attention_factor_multiplies_scores_by_its_square():
    scaling = RopeScalingConfig(kind="yarn", factor=4.0, original_positions=64, attention_factor=1.25)
    x = np.ones((1, 1, 1, 8), np.float32)
    turned = rotate(x, rotation(jnp.array([[3]]), 8, 10000.0, scaling))
    assert float((turned**2).sum()) == pytest.approx(8 * 1.25**2)


def test_frequency_factors_that_leave_no_ramp_are_refused():
    with pytest.raises(ValidationError, match="high_frequency_factor 1.0 is not above low_frequency_factor 1.0"):
        RopeScalingConfig(kind="llama3", low_frequency_factor=1.0, high_frequency_factor=1.0)
