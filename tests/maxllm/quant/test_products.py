"""Products in fp8 and int8 are those of factors rounded by hand; delayed scaling remembers what it should."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maxllm.quant import exponents, products

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2


@pytest.fixture(scope="module")
def factors():
    """x `[24, 16]`, kernel `[16, 8]` and the output's gradient, of magnitudes that fp8 cannot hold unscaled."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(24, 16)) * 3000
    kernel, gradient = generator.normal(size=(16, 8)) * 1e-4, generator.normal(size=(24, 8)) * 1e-7
    return [array.astype(np.float32) for array in (x, kernel, gradient)]


def ours(product, factors, *more):
    x, kernel, gradient = factors
    output, pull = jax.vjp(product, x, kernel, *more)
    return [np.asarray(array, np.float64) for array in (output, *pull(jnp.asarray(gradient)))]


def by_largest(array: np.ndarray, dtype: type, limit: float, axis: int | None = None) -> np.ndarray:
    """Scaled so that the largest magnitude becomes `limit`, rounded, scaled back, in float64."""
    scale = np.abs(array).max(axis=axis, keepdims=True).astype(np.float32) / np.float32(limit)
    ratio = array / scale
    rounded = np.round(ratio).clip(-128, 127) if dtype is np.int8 else ratio.clip(-limit, limit).astype(dtype)
    return rounded.astype(np.float64) * scale


def close(got, want):
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_fp8_with_current_scaling_rounds_each_factor_once(factors):
    x, kernel, gradient = factors
    output, of_x, of_kernel = ours(products.fp8, factors)
    x8, kernel8 = by_largest(x, E4M3, 448), by_largest(kernel, E4M3, 448)
    gradient8 = by_largest(gradient, E5M2, 57344)
    close(output, x8 @ kernel8)
    close(of_x, gradient8 @ kernel8.T)
    close(of_kernel, x8.T @ gradient8)
    assert 0.005 < np.linalg.norm(output - x @ kernel) / np.linalg.norm(x @ kernel) < 0.05


def test_int8_rounds_by_token_and_output_and_leaves_the_kernels_gradient_whole(factors):
    x, kernel, gradient = factors
    scales = np.abs(kernel).max(0).astype(np.float32) / np.float32(127)
    output, of_x, of_kernel = ours(products.int8, factors)
    kernel8 = by_largest(kernel, np.int8, 127, axis=0)
    close(output, by_largest(x, np.int8, 127, axis=1) @ kernel8)
    close(of_x, by_largest(gradient * scales, np.int8, 127, axis=1) @ (kernel8 / scales).T)
    close(of_kernel, x.T.astype(np.float64) @ gradient)


def test_int8_on_a_mesh_is_int8_on_one_device(factors):
    mesh = jax.make_mesh((2, 4), ("rows", "inputs"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    layouts = [PartitionSpec("rows", "inputs"), PartitionSpec("inputs"), PartitionSpec("rows")]
    split = [jax.device_put(x, NamedSharding(mesh, at)) for x, at in zip(factors, layouts, strict=True)]

    @jax.jit
    def every(x, kernel, gradient):
        output, pull = jax.vjp(products.int8, x, kernel)
        return output, *pull(gradient)

    for got, want in zip(every(*split), every(*factors), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * float(jnp.abs(want).max()))


def power_of_two(amax: float, limit: float) -> float:
    """Transformer Engine's formula."""
    return 2.0 ** np.floor(np.log2(limit / amax))


def test_delayed_scaling_uses_the_past_saturates_and_counts_the_present(factors):
    x, kernel, gradient = factors
    past = [np.abs(x).max() / 3, np.abs(kernel).max() * 1.01, np.abs(gradient).max() * 5]
    seen = jnp.stack([exponents.remember(jnp.zeros(256), exponents.met(jnp.float32(amax)), 16) for amax in past])
    output, of_x, of_kernel, counts = ours(products.fp8, factors, seen)
    rounded = []
    for array, amax, dtype, limit in zip(factors, past, (E4M3, E4M3, E5M2), (448, 448, 57344), strict=True):
        scale = power_of_two(amax, limit)
        rounded.append((array * scale).clip(-limit, limit).astype(dtype).astype(np.float64) / scale)
    assert np.abs(rounded[0]).max() < np.abs(x).max() * 0.9  # larger than ever before
    close(output, rounded[0] @ rounded[1])
    close(of_x, rounded[2] @ rounded[1].T)
    close(of_kernel, rounded[0].T @ rounded[2])
    for row, array in zip(counts, factors, strict=True):
        np.testing.assert_array_equal(row, exponents.met(jnp.asarray(array)))


@pytest.mark.parametrize("dtype, limit", [(jnp.float8_e4m3fn, 448.0), (jnp.float8_e5m2, 57344.0)])
def test_a_scale_is_the_recipes_at_every_magnitude(dtype, limit):
    generator = np.random.default_rng(1)
    amax = (10.0 ** generator.uniform(-30, 30, 500)).astype(np.float32)
    amax[:4] = [1.75, 448.0, 2.0**-9, 1.0]

    def scale_of(largest):
        return jnp.stack(exponents.scale(exponents.met(-largest[None]), dtype))

    scale, inverse = np.asarray(jax.jit(jax.vmap(scale_of))(amax), np.float64).T
    np.testing.assert_array_equal(scale, [power_of_two(float(a), limit) for a in amax])
    np.testing.assert_array_equal(scale * inverse, 1)
    assert np.all(amax * scale <= limit) and np.all(amax * scale > limit / 2)


def test_the_table_is_the_maximum_of_a_list_of_the_last_steps():
    generator = np.random.default_rng(2)
    magnitudes = (2.0 ** generator.integers(-8, 8, (40, 3))).astype(np.float32)  # three micro-batches a step
    table, history = jnp.zeros(256), 5
    for step, row in enumerate(magnitudes):
        counts = sum(exponents.met(jnp.float32(value)) for value in row) / 7.0  # however gradients are averaged
        table = exponents.remember(table, counts, history)
        largest = magnitudes[max(0, step - history + 1) : step + 1].max()
        assert exponents.scale(table, jnp.float8_e4m3fn)[0] == power_of_two(largest, 448)


def test_nothing_seen_is_a_scale_of_one_and_zeros_are_not_seen():
    assert exponents.met(jnp.zeros(4)).sum() == 0
    assert exponents.scale(jnp.zeros(256), jnp.float8_e4m3fn) == (1, 1)
