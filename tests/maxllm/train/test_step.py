"""The one train step: what it returns, what it donates, and that it learns."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import abstract, create
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import place_batch, single_device_mesh
from maxllm.train.state import abstract_state, create_state
from maxllm.train.step import make_eval_step, make_train_step, micro_batches

CONFIG = ModelConfig(
    vocab_size=32, hidden_size=32, intermediate_size=40, num_layers=2, num_heads=2, num_kv_heads=2, max_positions=16
)
MESH = single_device_mesh()
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2), ScheduleConfig(warmup_steps=2), 40)


def counting(seed: int = 0) -> Batch:
    """Rows that count upwards modulo 32: learned in a few steps."""
    tokens = (np.random.default_rng(seed).integers(0, 32, (8, 1)) + np.arange(17)).astype(np.int32) % 32
    positions = np.tile(np.arange(16, dtype=np.int32), (8, 1))
    rows = Batch(tokens[:, :-1], tokens[:, 1:], np.ones_like(positions), positions, np.ones((8, 16), np.float32))
    return place_batch(rows, MESH)


@functools.cache
def compiled(dtype: str):
    structure, _ = abstract(CONFIG, ComputeConfig(dtype=dtype))
    return make_train_step(structure, causal_lm, OPTIMIZER, MESH)


def fresh(dtype: str = "float32"):
    return create_state(create(CONFIG, ComputeConfig(dtype=dtype), MESH, seed=0), OPTIMIZER, MESH)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_learns(dtype):
    _, state = fresh(dtype)
    losses = []
    for step in range(40):
        state, metrics = compiled(dtype)(state, counting(step))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(32), abs=0.1)
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 40
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {jnp.dtype("float32")}


def test_metrics_are_the_mean_loss_the_weight_and_the_gradients_norm():
    structure, state = fresh()
    held_out = make_eval_step(structure, causal_lm, MESH)(state.parameters, counting())
    _, metrics = compiled("float32")(state, counting())
    assert set(metrics) == {"loss", "weight", "gradient_norm"}
    np.testing.assert_allclose(metrics["loss"], held_out["loss"].mean(), rtol=1e-6)
    assert metrics["weight"] == 8 * 16
    assert metrics["gradient_norm"] > 0


def test_the_state_is_donated():
    _, state = fresh()
    compiled("float32")(state, counting())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.parameters, state.optimizer)))


def test_a_batch_of_padding_alone_is_no_nan():
    _, state = fresh()
    padding = jax.tree.map(jnp.zeros_like, counting())
    state, metrics = compiled("float32")(state, padding)
    assert metrics["loss"] == 0 and metrics["gradient_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.parameters))


def test_the_same_step_twice_is_the_same_to_the_bit():
    results = [compiled("float32")(fresh()[1], counting()) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_an_abstract_state_has_the_real_ones_shapes_and_places():
    _, state = fresh()
    shapes = abstract_state(abstract(CONFIG)[1], OPTIMIZER, MESH)
    describe = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype, x.sharding))
    assert jax.tree.leaves(describe(state)) == jax.tree.leaves(describe(shapes))


def test_micro_batches_take_every_row_once():
    batch = counting()
    cut = micro_batches(batch, 4)
    np.testing.assert_array_equal(cut.tokens[1], batch.tokens[1::4])
    assert sorted(np.asarray(cut.tokens).reshape(8, 16).tolist()) == sorted(np.asarray(batch.tokens).tolist())
