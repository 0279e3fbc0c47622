"""Moments in bfloat16: half the bytes, no drift, the same toss on every mesh and after every stop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from maxllm.optim.rounding import moments_in_bfloat16, round_to_bfloat16


def rounded(x: np.ndarray, seeds: int) -> np.ndarray:
    """`[seeds, *x.shape]`, as float64."""
    over_seeds = jax.jit(jax.vmap(round_to_bfloat16, in_axes=(None, 0)))
    return np.asarray(over_seeds(jnp.asarray(x), jnp.arange(seeds, dtype=jnp.uint32)).astype(jnp.float32), np.float64)


def test_rounding_goes_to_a_neighbour_and_is_right_on_average():
    generator = np.random.default_rng(0)
    x = (generator.normal(size=400) * 10.0 ** generator.integers(-20, 20, 400)).astype(np.float32)
    found = rounded(x, 4096)
    below = np.minimum(found.min(0), found.max(0))
    above = found.max(0)
    step = above - below
    assert np.all((below <= x) & (x <= above)) and np.all(step <= 2.0**-7 * np.abs(x))
    # The share of tosses that came up is binomial with the exact probability: 5 standard deviations, 400 of them.
    probability = (x - below) / np.where(step == 0, 1, step)
    deviation = (found.mean(0) - x) / np.where(step == 0, 1, step)
    assert np.all(np.abs(deviation) <= 5 * np.sqrt(np.maximum(probability * (1 - probability), 1e-5) / 4096))
    chi = deviation / np.sqrt(np.maximum(probability * (1 - probability), 1e-5) / 4096)
    assert 0.85 < chi.std() < 1.15  # neighbours toss coins of their own


def test_what_a_bfloat16_holds_or_no_number_is_stays():
    x = np.array([0.0, -0.0, 1.5, -3.0, np.inf, -np.inf, np.nan, 3.3895314e38], np.float32)
    np.testing.assert_array_equal(rounded(x, 16), np.broadcast_to(x, (16, 8)))


def second_moment(optimizer: optax.GradientTransformation, steps: int) -> float:
    """Of a gradient that fell from 1 to 0.5, averaged over 512 equal parameters."""
    parameters = jnp.zeros(512)
    state = optimizer.init(parameters)
    state = optax.tree.set(state, nu=jnp.ones(512, optax.tree.get(state, "nu").dtype))
    update = jax.jit(lambda state: optimizer.update(jnp.full(512, 0.5), state, parameters)[1])
    for _ in range(steps):
        state = update(state)
    return float(jnp.mean(optax.tree.get(state, "nu").astype(jnp.float32)))


def nearest(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The twin that rounds to the nearest."""

    def cast(tree, dtype):
        return jax.tree.map(lambda x: x.astype(dtype) if x.ndim else x, tree)

    def update(gradients, state, parameters):
        updates, state = optimizer.update(gradients, cast(state, jnp.float32), parameters)
        return updates, cast(state, jnp.bfloat16)

    return optax.GradientTransformation(lambda p: cast(optimizer.init(p), jnp.bfloat16), update)


def test_a_slow_second_moment_stalls_when_rounded_to_the_nearest_and_does_not_here():
    adam, steps = optax.scale_by_adam(b2=0.999), 300
    exact = 0.25 + 0.75 * 0.999**steps  # 0.8056
    np.testing.assert_allclose(second_moment(adam, steps), exact, rtol=1e-4)
    assert second_moment(nearest(adam), steps) == 1.0
    np.testing.assert_allclose(second_moment(moments_in_bfloat16(adam), steps), exact, rtol=5e-3)


@pytest.fixture(scope="module")
def parameters():
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "kernel": nnx.Param(jax.random.normal(keys[0], (16, 32)), axes=("embed", "mlp")),
        "norm": nnx.Param(jax.random.normal(keys[1], (16,)), axes=("norm",)),
    }


def test_the_state_is_half_as_large_and_resumes_bit_for_bit_on_any_mesh(parameters):
    wide, narrow = optax.adamw(1e-2), moments_in_bfloat16(optax.adamw(1e-2))
    size = {
        name: sum(x.nbytes for x in jax.tree.leaves(o.init(parameters))) for name, o in (("w", wide), ("n", narrow))
    }
    assert size["n"] <= size["w"] / 2 + 8  # two counters
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = {"kernel": PartitionSpec(None, "fsdp"), "norm": PartitionSpec("fsdp")}
    over = {name: p.replace(jax.device_put(p[...], NamedSharding(mesh, split[name]))) for name, p in parameters.items()}
    # Gradients that any device computes alike: sums over devices would differ in their last bits.
    step = jax.jit(lambda state, p: narrow.update(jax.tree.map(lambda x: 0.5 * x, p), state, p)[1])
    whole, parted = narrow.init(parameters), jax.jit(narrow.init)(over)
    for _ in range(3):
        whole, parted = step(whole, parameters), step(parted, over)
        whole = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), whole)  # as if from a checkpoint
    for got, want in zip(jax.tree.leaves(parted), jax.tree.leaves(whole), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(np.asarray(got, np.float32), np.asarray(want, np.float32))
    moment = optax.tree.get(parted, "mu")["kernel"]
    assert moment.dtype == jnp.bfloat16 and np.unique(np.asarray(moment, np.float32)).size > 100
