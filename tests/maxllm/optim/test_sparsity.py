"""N of every M along what a product sums over; magnitudes by a schedule; zeros that stay; the same on every mesh."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.sparsity import SparsityConfig
from maxllm.models import create
from maxllm.optim.sparsity import cubic, maskable, sparse
from maxllm.optim.thresholds import keep_largest
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.rules import pin

MODEL = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=16
)
DENSE = {"embed.embedding", "head.kernel", "norm.weight", "layers.attention_norm.weight", "layers.mlp_norm.weight"}
STEPS = 10


@functools.cache
def trained(config: SparsityConfig, **mesh: int) -> tuple[dict[str, np.ndarray], list[float], Any, np.ndarray]:
    """Parameters, the sparsity reported after each step, and the state, after steps with made-up gradients.

    And where one of the matrices was zero after the first step.
    """
    devices = jax.devices()[: int(np.prod(list(mesh.values()) or [1]))]
    place = make_mesh(MeshConfig(**{"fsdp": 1, **mesh}), devices)
    parameters = nnx.split(create(MODEL, ComputeConfig(dtype="float32"), place, seed=0))[1]
    optimizer = sparse(optax.adamw(3e-2, weight_decay=0.1), config, STEPS)

    @jax.jit
    def step(parameters, state, number):
        # Triangle waves: exact enough to be the same on every mesh.
        gradients = jax.tree.map(lambda x: jnp.abs((8 * x + number) % 2 - 1) - 0.5, parameters)
        updates, state = optimizer.update(gradients, state, parameters)
        return pin(optax.apply_updates(parameters, updates), place), state

    with jax.set_mesh(place):
        state, reported, first = jax.jit(optimizer.init)(parameters), [], None
        for number in range(STEPS):
            parameters, state = step(parameters, state, jnp.float32(number * 0.3))
            reported.append(float(state.sparsity))
            if first is None:
                first = np.asarray(parameters.layers.mlp.up.kernel[...]) == 0
    flat = {".".join(path): np.asarray(value[...]) for path, value in nnx.to_flat_state(parameters)}
    return flat, reported, state, first


def groups(name: str, weights: np.ndarray, m: int) -> np.ndarray:
    """`[groups, m]` neighbours in the sum over a product's inputs, from the names alone."""
    layers = weights.shape[0]
    inputs = weights.shape[1] * weights.shape[2] if ".output." in name else weights.shape[1]
    return weights.reshape(layers, inputs, -1).swapaxes(1, 2).reshape(-1, m)


@pytest.mark.parametrize("straight_through", [False, True])
def test_every_group_of_four_has_exactly_two_weights_and_nothing_else_is_touched(straight_through):
    config = SparsityConfig(name="n_m", straight_through=straight_through, every=2, end_step=8)
    parameters, reported, state, first = trained(config)
    sparse_ones = parameters.keys() - DENSE
    assert len(sparse_ones) == 7
    for name in sparse_ones:
        assert np.all((groups(name, parameters[name], 4) != 0).sum(1) == 2), name
    for name in DENSE:
        assert np.all(parameters[name] != 0), name
    assert reported == [0.5] * STEPS
    changed = (parameters["layers.mlp.up.kernel"] == 0) != first
    if straight_through:  # masked weights live on out of sight, and come back
        assert np.all(state.dense["layers.mlp.up.kernel"][...] != 0) and changed.any()
    else:
        assert not changed.any() and state.dense == {}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(SparsityConfig(name="n_m", n=1, m=8), marks=pytest.mark.slow),
        pytest.param(SparsityConfig(name="n_m", straight_through=True, every=3, end_step=8), marks=pytest.mark.slow),
        pytest.param(
            SparsityConfig(name="magnitude", scope="global", final=0.7, every=3, end_step=8), marks=pytest.mark.slow
        ),
    ],
    ids=["n_m", "straight-through", "magnitude"],
)
def test_eight_devices_choose_the_masks_of_one(config):
    """48 inputs in groups of 8 over 8 devices: each holds 6, so that groups straddle them."""
    one, reported, *_ = trained(config)
    eight, reported_by_eight, state_of_eight, _ = trained(config, fsdp=4, tensor=2)
    for name in one:
        np.testing.assert_array_equal(eight[name] == 0, one[name] == 0, err_msg=name)
        np.testing.assert_allclose(eight[name], one[name], atol=1e-6)
    np.testing.assert_allclose(reported_by_eight, reported, rtol=1e-6)
    kernel = state_of_eight.masks["layers.mlp.up.kernel"].get_raw_value()
    assert kernel.dtype == jnp.bool_ and kernel.sharding.shard_shape(kernel.shape) == (2, 8, 24)


def test_pruning_follows_the_cubic_schedule_in_each_matrix_and_zeros_stay():
    config = SparsityConfig(name="magnitude", final=0.8, begin_step=2, end_step=8, every=2)
    assert [round(float(cubic(config, 8, jnp.int32(step))), 6) for step in (2, 4, 6, 8, 20)] == [
        0, *(round(0.8 * (1 - (1 - t) ** 3), 6) for t in (1 / 3, 2 / 3)), 0.8, 0.8,
    ]  # fmt: skip
    parameters, reported, *_ = trained(config)
    assert reported[:4] == [0.0] * 4 and reported == sorted(reported)
    np.testing.assert_allclose(reported[4:6], 0.8 * (1 - (2 / 3) ** 3), atol=2e-3)
    for name in parameters.keys() - DENSE:
        shares = (parameters[name] == 0).reshape(2, -1).mean(1)
        np.testing.assert_allclose(shares, 0.8, atol=1 / parameters[name][0].size, err_msg=name)


@pytest.mark.parametrize("whole", [False, True])
def test_the_largest_are_those_a_sort_would_find(whole):
    generator = np.random.default_rng(0)
    weights = {"a": generator.normal(size=(2, 300, 11)), "b": generator.normal(size=(2, 40_000)) * 1e-3}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    weights["a"][0, :20] = 0.0
    found = jax.jit(lambda w: keep_largest(w, jnp.float32(0.37), whole=whole))(weights)
    if whole:
        magnitudes = np.sort(np.abs(np.concatenate([array.ravel() for array in weights.values()])))
        threshold = magnitudes[round(np.float32(0.37) * magnitudes.size)]
        want = {name: np.abs(array) >= threshold for name, array in weights.items()}
    else:
        want = {}
        for name, array in weights.items():
            flat = np.abs(array).reshape(2, -1)
            thresholds = np.sort(flat, axis=1)[:, round(np.float32(0.37) * flat.shape[1])]
            want[name] = (flat >= thresholds[:, None]).reshape(array.shape)
    for name in weights:
        np.testing.assert_array_equal(found[name], want[name])


def test_a_group_that_does_not_fit_is_refused_by_name():
    parameters = nnx.split(create(MODEL, ComputeConfig(), make_mesh(MeshConfig(), jax.devices()[:1]), seed=0))[1]
    with pytest.raises(UserError, match=r"sparsity.m 5 does not divide the \d+ inputs of layers"):
        sparse(optax.sgd(1.0), SparsityConfig(name="n_m", n=1, m=5), STEPS).init(parameters)
    assert set(maskable(parameters)).isdisjoint(DENSE)
