"""The objective is its formula, and counts only what has weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.models import create
from maxllm.objectives import Weighted, causal_lm
from maxllm.parallel.mesh import single_device_mesh

CONFIG = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, max_positions=16
)


@pytest.fixture(scope="module")
def model():
    return create(CONFIG, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)


def batch(weights: np.ndarray) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 32, (2, 9)).astype(np.int32)
    positions = np.tile(np.arange(8, dtype=np.int32), (2, 1))
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones((2, 8), np.int32), positions, weights.astype(np.float32))


def test_it_is_the_weighted_sum_of_minus_log_probabilities(model):
    weights = np.random.default_rng(1).choice([0.0, 0.5, 1.0], (2, 8))
    rows = batch(weights)
    log_probabilities = jax.nn.log_softmax(model(rows.tokens, rows.positions, rows.segment_ids))
    chosen = np.take_along_axis(np.asarray(log_probabilities), rows.targets[..., None], -1)[..., 0]
    loss = causal_lm(model, rows)["loss"]
    np.testing.assert_allclose(loss.sum, -(chosen * weights).sum(), rtol=1e-5)
    np.testing.assert_allclose(loss.weight, weights.sum())


def test_a_target_without_weight_changes_nothing(model):
    weights = np.ones((2, 8))
    weights[:, 3] = 0
    rows = batch(weights)
    other = rows.targets.copy()
    other[:, 3] = 0
    a, b = causal_lm(model, rows)["loss"], causal_lm(model, rows._replace(targets=other))["loss"]
    np.testing.assert_array_equal(a.sum, b.sum)


def test_means_of_parts_add_up_to_the_mean_of_the_whole():
    parts = [Weighted(jnp.float32(6), jnp.float32(3)), Weighted(jnp.float32(1), jnp.float32(1))]
    whole = jax.tree.map(lambda a, b: a + b, *parts)
    assert whole.mean() == 7 / 4
    assert Weighted(jnp.float32(0), jnp.float32(0)).mean() == 0
