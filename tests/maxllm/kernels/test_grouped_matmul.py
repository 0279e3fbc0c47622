"""Rows by their group's matrix: every road gives what a loop over the groups gives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.kernels.grouped_matmul import (
    block_size,
    grouped_matmul,
    pallas_matrices,
    pallas_rows,
)

ROWS, INPUTS, OUTPUTS = 300, 24, 40
# Blocks of 128 rows: groups of several blocks, of one, of a row, empty ones first, last and between, rows of no group.
SIZES = [(150, 0, 129, 1, 20), (0, 7, 0, 200, 0), (0, 0, 300, 0, 0), (0, 0, 0, 0, 0)]


def example(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def by_group(x, w, sizes):
    """float64 `[rows, outputs]`, zeros for rows of no group."""
    out, start = np.zeros((len(x), w.shape[2])), 0
    for matrix, size in zip(w, sizes, strict=True):
        out[start : start + size] = x[start : start + size].astype(np.float64) @ matrix
        start += size
    return out


def products(x, y, sizes):
    ends = np.cumsum(sizes)
    return np.stack(
        [x[end - size : end].T.astype(np.float64) @ y[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    )


@jax.jit
def out_and_gradients(x, w, sizes, y):
    out, transpose = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes), x, w)
    return out, *transpose(y)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_loop_and_its_gradients_are_a_product_for_each_group(sizes):
    x, w, y = example(ROWS, INPUTS), example(5, INPUTS, OUTPUTS), example(ROWS, OUTPUTS)
    used = sum(sizes)
    y[used:] = np.nan  # nobody looks at rows of no group
    out, to_x, to_w = out_and_gradients(x, w, np.int32(sizes), y)
    np.testing.assert_allclose(out[:used], by_group(x, w, sizes)[:used], atol=1e-4)
    np.testing.assert_allclose(to_x[:used], by_group(y, w.swapaxes(1, 2), sizes)[:used], atol=1e-4)
    np.testing.assert_allclose(to_w, products(x, y, sizes), atol=1e-4)


@jax.jit
def tpu_kernels(x, w, sizes, y):
    rows = pallas_rows(x, w, sizes, interpret=True)
    transposed = pallas_rows(y, w, sizes, transposed=True, interpret=True)
    return rows, transposed, pallas_matrices(x, y, sizes, interpret=True)


@pytest.mark.parametrize("sizes", SIZES[:2], ids=str)
def test_the_tpu_kernels_give_the_same(sizes):
    x, w, y = example(ROWS, INPUTS), example(5, INPUTS, OUTPUTS), example(ROWS, OUTPUTS)
    used = sum(sizes)
    y[used:] = np.nan
    out, to_x, to_w = tpu_kernels(x, w, np.int32(sizes), y)
    np.testing.assert_allclose(out[:used], by_group(x, w, sizes)[:used], atol=1e-4)
    np.testing.assert_allclose(to_x[:used], by_group(y, w.swapaxes(1, 2), sizes)[:used], atol=1e-4)
    np.testing.assert_allclose(to_w, products(x, y, sizes), atol=1e-4)


def test_copies_under_vmap_have_groups_of_their_own():
    x, w = example(2, ROWS, INPUTS), example(2, 5, INPUTS, OUTPUTS)
    sizes = np.array([SIZES[0], SIZES[2]], np.int32)
    for got, *one in zip(jax.vmap(grouped_matmul)(x, w, sizes), x, w, sizes, strict=True):
        np.testing.assert_allclose(got, by_group(*one), atol=1e-4)


def test_sums_are_float32_and_the_result_is_of_the_rows_type():
    x, w = (jnp.array(a, jnp.bfloat16) for a in (example(ROWS, 512), example(2, 512, OUTPUTS)))
    got = grouped_matmul(x, w, jnp.array([100, 200]))
    assert got.dtype == jnp.bfloat16
    want = by_group(np.float32(x), np.float32(w), (100, 200))
    np.testing.assert_allclose(np.float32(got), want, rtol=2**-8, atol=1e-3)


def test_blocks_waste_little_of_an_even_share_and_never_exceed_the_rows():
    assert block_size(65536, 8) == 1024
    assert block_size(16384, 8) == 512
    assert block_size(4096, 64) == 128
    assert block_size(6, 8) == 6
