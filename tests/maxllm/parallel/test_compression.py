"""What compression does not send is not lost, and what it sends is as small as it says."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from maxllm.config.parallel import MeshConfig
from maxllm.parallel.compression import BLOCK, compressed_sum
from maxllm.parallel.mesh import make_mesh

COPIES, SIZE = 4, 2 * BLOCK + 3  # the last stretch is not full
FORMS = ("bfloat16", "int8")


@functools.cache
def over_data(form: str):
    mesh = make_mesh(MeshConfig(data=COPIES, fsdp=1), jax.devices()[:COPIES])

    def one(part: jax.Array, waiting: jax.Array):
        total, left = compressed_sum(part[0], waiting[0], "data", form)
        return total, left[None]

    each = PartitionSpec("data")
    function = jax.shard_map(one, mesh=mesh, in_specs=(each, each), out_specs=(PartitionSpec(), each), check_vma=False)
    return jax.jit(function)


def slow_twin(x: np.ndarray, form: str) -> np.ndarray:
    """What a number becomes on its way, in NumPy: the nearest of 8 bits of mantissa, or of 255 steps of its block."""
    if form == "bfloat16":
        return x.astype(jnp.bfloat16).astype(np.float32)
    blocks = np.pad(x, (0, -x.size % BLOCK)).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.round(blocks / scale) * scale).reshape(-1)[: x.size].astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_one_sum_is_the_slow_one(form):
    """One copy's stretch: rounded on every copy, added up, rounded again."""
    parts = np.random.default_rng(0).normal(size=(COPIES, SIZE)).astype(np.float32)
    got, _ = over_data(form)(parts, np.zeros_like(parts))
    blocks = -(-SIZE // (COPIES * BLOCK)) * BLOCK
    for start in range(0, SIZE, blocks):
        here = slice(start, start + blocks)
        want = slow_twin(sum(slow_twin(part[here], form) for part in parts), form)
        np.testing.assert_allclose(got[here], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 4))
def test_what_was_sent_and_what_waits_is_the_exact_sum(form, seed, exponent):
    generator = np.random.default_rng(seed)
    parts = (generator.normal(size=(COPIES, SIZE)) * 2.0**exponent).astype(np.float32)
    parts[:, generator.integers(SIZE)] *= 1000  # a block with one large number rounds its others away
    waiting = (generator.normal(size=(COPIES, SIZE)) * 2.0 ** (exponent - 8)).astype(np.float32)
    total, left = over_data(form)(parts, waiting)
    exact = (parts.astype(np.float64) + waiting).sum(axis=0)
    np.testing.assert_allclose(
        np.asarray(total, np.float64) + np.asarray(left, np.float64).sum(axis=0), exact, atol=1e-6 * np.abs(parts).max()
    )


@pytest.mark.parametrize("form", FORMS)
def test_many_steps_do_not_drift_with_feedback_and_do_without(form):
    """The same gradients again and again: their small parts are rounded the same way each time."""
    parts = np.random.default_rng(1).normal(size=(COPIES, SIZE)).astype(np.float32)
    with_feedback, without, waiting = np.zeros(SIZE), np.zeros(SIZE), np.zeros_like(parts)
    for _ in range(100):
        total, waiting = over_data(form)(parts, waiting)
        with_feedback += np.asarray(total)
        without += np.asarray(over_data(form)(parts, np.zeros_like(parts))[0])
    exact = 100 * parts.astype(np.float64).sum(axis=0)
    one_step = np.abs(np.asarray(waiting)).sum(axis=0).max()  # what waits now, and never more
    assert np.abs(with_feedback - exact).max() <= one_step + 1e-3
    assert np.abs(without - exact).max() > 10 * np.abs(with_feedback - exact).max()


@pytest.mark.parametrize("form", FORMS)
def test_zeros_stay_zeros_and_a_nan_is_not_hidden(form):
    zeros = np.zeros((COPIES, SIZE), np.float32)
    for result in over_data(form)(zeros, zeros):
        np.testing.assert_array_equal(result, 0)
    zeros[2, 5] = np.nan
    assert np.isnan(over_data(form)(zeros, np.zeros_like(zeros))[0]).any()
