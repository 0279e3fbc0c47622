"""Routers' biases go against uneven loads, step by step, and nothing else of a step knows them."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import create
from maxllm.models.router import RouterBias
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.optim.router_bias import without_biases
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.train.state import create_state
from maxllm.train.step import make_train_step

RATE, EXPERTS = 0.01, 4
COMPUTE = ComputeConfig(dtype="float32")
CONFIG = ModelConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    init_std=0.3,
    num_experts=EXPERTS,
    routing={"scores": "sigmoid", "bias_rate": RATE},
)


def rows() -> Batch:
    """Four of five places, so that padding would show in a load."""
    tokens = np.random.default_rng(0).integers(0, 32, (8, 11)).astype(np.int32)
    segment_ids = np.broadcast_to(np.arange(10) < 8, (8, 10)).astype(np.int32)
    positions = np.broadcast_to(np.arange(10, dtype=np.int32), (8, 10))
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, segment_ids.astype(np.float32))


@functools.cache
def loads() -> np.ndarray:
    """Choices per layer and expert on one device, by running the layers one by one."""
    batch = rows()

    @nnx.jit
    def ranks(model):
        found = []
        x, places = model.begin(batch.tokens, batch.positions), model.places(batch.positions)
        structure, layers = nnx.split(model.layers)
        for number in range(CONFIG.num_layers):
            block = nnx.merge(structure, jax.tree.map(lambda leaf, at=number: leaf[at], layers))
            middle = x + block.attention(block.attention_norm(x), places, batch.segment_ids)
            found.append(jax.nn.sigmoid(block.mlp.router(block.mlp_norm(middle))))
            x, _ = block(x, places, batch.segment_ids)
        return found

    found = []
    for of_layer in ranks(create(CONFIG, COMPUTE, mesh_of({}), seed=0)):
        chosen = np.argsort(-np.asarray(of_layer), axis=-1)[..., :2][batch.segment_ids > 0]
        found.append(np.bincount(chosen.ravel(), minlength=EXPERTS))
    return np.stack(found)


def mesh_of(axes: dict[str, int]):
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[: math.prod(axes.values())])


@pytest.mark.parametrize(
    "axes, micro_batches",
    [
        ({"data": 2, "expert": 2}, 2),
        pytest.param({}, 1, marks=pytest.mark.slow),
        pytest.param({"fsdp": 2, "tensor": 2}, 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_step_moves_a_bias_by_the_sign_of_its_load_whatever_the_layout(axes, micro_batches):
    mesh = mesh_of(axes)
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.5), ScheduleConfig(), 10, bias_rate=RATE)
    structure, state = create_state(create(CONFIG, COMPUTE, mesh, seed=0), optimizer, mesh)
    step = make_train_step(structure, causal_lm, optimizer, mesh, accumulation_steps=micro_batches)
    state, metrics = step(state, place_batch(rows(), mesh))
    away = loads() - loads().mean(axis=1, keepdims=True)
    assert np.abs(away).max() > 3  # there is something to even out
    np.testing.assert_allclose(state.parameters["layers"]["mlp"]["router"]["bias"][...], -RATE * np.sign(away))
    np.testing.assert_allclose(metrics["router_violation"], (away.max(axis=1) / loads().mean(axis=1)).mean(), rtol=0.5)


def test_biases_have_no_moments_no_decay_no_clipping_and_are_in_no_norm():
    uneven = jnp.array([100.0, 0.0, -1.0])
    state = nnx.State({"kernel": nnx.Param(jnp.array([3.0, 4.0]), axes=("mlp",)), "bias": RouterBias(jnp.ones(3))})
    gradients = nnx.State({"kernel": nnx.Param(jnp.array([3.0, 4.0]), axes=("mlp",)), "bias": RouterBias(uneven)})
    optimizer = make_optimizer(
        OptimizerConfig(clip_norm=1.0, weight_decay=0.5), ScheduleConfig(final_ratio=1.0), 10, bias_rate=RATE
    )
    alone = make_optimizer(OptimizerConfig(clip_norm=1.0, weight_decay=0.5), ScheduleConfig(final_ratio=1.0), 10)
    updates, moments = optimizer.update(gradients, optimizer.init(state), state)
    np.testing.assert_allclose(updates["bias"][...], [-RATE, 0, RATE])
    only = without_biases(state)
    want, _ = alone.update(without_biases(gradients), alone.init(only), only)
    np.testing.assert_array_equal(updates["kernel"][...], want["kernel"][...])
    assert not any("bias" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(moments))
    assert optax.global_norm(without_biases(gradients)) == 5


@pytest.mark.slow
def test_biases_even_out_the_loads_without_a_loss():
    mesh = mesh_of({})
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-6), ScheduleConfig(), 200, bias_rate=RATE)
    structure, state = create_state(create(CONFIG, COMPUTE, mesh, seed=0), optimizer, mesh)
    step, batch = make_train_step(structure, causal_lm, optimizer, mesh), place_batch(rows(), mesh)
    violations = []
    for _ in range(60):
        state, metrics = step(state, batch)
        violations.append(float(metrics["router_violation"]))
    assert max(violations[-10:]) < 0.4 * violations[0], violations
