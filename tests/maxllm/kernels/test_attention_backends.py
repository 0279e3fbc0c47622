"""Every road to attention gives the same numbers, packed or not."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.kernels import attention_blocks, attention_choice, attention_mapped
from maxllm.kernels.attention import attention

FAST = ["mapped", "blockwise"]
BACKENDS = ["reference", *FAST]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in short sequences."""
    monkeypatch.setattr(attention_blocks, "BLOCK", 12)
    monkeypatch.setattr(attention_mapped, "BLOCK", 12)


def inputs(length: int, heads: int = 4, kv_heads: int = 2, head_dim: int = 8, batch: int = 2, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(length), 4)
    shapes = [(batch, length, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def value_and_gradients(backend: str, query, key, value, cotangent, segment_ids=None):
    def run(*arrays):
        output, pull = jax.vjp(lambda *a: attention(*a, segment_ids=segment_ids, backend=backend), *arrays)
        return (output, *pull(cotangent))

    return jax.jit(run)(query, key, value)


def segments(length: int, batch: int = 2) -> jax.Array:
    return jnp.asarray(np.sort(np.random.default_rng(length).integers(0, 4, (batch, length)), axis=1), jnp.int32)


def assert_close(got, want, tolerance=2e-6):
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        # The gradient of a segment of one token is 0: relative to 1, then.
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1.0)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("packed", [False, True], ids=["one-segment", "packed"])
@pytest.mark.parametrize("length, kv_heads", [(24, 2), (27, 1)])
def test_every_backend_equals_the_reference_forward_and_backward(backend, packed, length, kv_heads):
    arrays = inputs(length, kv_heads=kv_heads)
    segment_ids = segments(length) if packed else None
    want = value_and_gradients("reference", *arrays, segment_ids=segment_ids)
    assert_close(value_and_gradients(backend, *arrays, segment_ids=segment_ids), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_equals_unpacked_forward_and_backward(backend):
    lengths = [11, 1, 9, 3]  # the last one is padding
    bounds = np.cumsum([0, *lengths])
    arrays = inputs(sum(lengths), batch=1)
    segment_ids = jnp.repeat(jnp.asarray([1, 2, 3, 0]), jnp.asarray(lengths))[None]
    packed = value_and_gradients(backend, *arrays, segment_ids=segment_ids)
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        alone = value_and_gradients(backend, *(x[:, begin:end] for x in arrays))
        assert_close([x[:, begin:end] for x in packed], alone)


@pytest.mark.parametrize("backend", FAST)
def test_a_segment_sees_nothing_of_the_others(backend):
    query, key, value, _ = inputs(24, batch=1)
    segment_ids = jnp.repeat(jnp.asarray([1, 2, 0]), 8)[None]
    before = attention(query, key, value, segment_ids=segment_ids, backend=backend)
    poisoned = value.at[:, :8].set(jnp.nan), key.at[:, 16:].set(1e9)
    after = attention(query, poisoned[1], poisoned[0].at[:, :8].set(1e9), segment_ids=segment_ids, backend=backend)
    np.testing.assert_array_equal(before[:, 8:16], after[:, 8:16])


@pytest.mark.parametrize("backend", FAST)
def test_bfloat16_is_near_float32(backend):
    arrays = inputs(32)
    want = value_and_gradients("reference", *arrays)
    got = value_and_gradients(backend, *(x.astype(jnp.bfloat16) for x in arrays))
    assert all(x.dtype == jnp.bfloat16 for x in got)
    assert_close(got, want, tolerance=2e-2)


def test_blockwise_memory_grows_linearly_with_length():
    def temporary_bytes(length):
        arrays = [jnp.zeros((1, length, 1, 8)) for _ in range(4)]
        run = jax.jit(lambda *a: jax.vjp(lambda *x: attention(*x, backend="blockwise"), *a[:3])[1](a[3]))
        return run.lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(1530) < 2.5 * temporary_bytes(765)  # no multiples of a block, either


def test_mapped_compiles_no_more_than_a_few_blocks_however_long():
    def products(length):
        program = jax.make_jaxpr(lambda *x: attention(*x, backend="mapped"))(*inputs(length)[:3])
        return str(program).count("dot_general")

    assert products(512) == products(12 * attention_mapped.UNROLLED) > products(24)


def test_the_choice_is_said_once(caplog):
    attention_choice._chosen.cache_clear()
    query, key, value, _ = inputs(8)
    with caplog.at_level(logging.INFO):
        attention(query, key, value, segment_ids=segments(8))
        attention(query, key, value, segment_ids=segments(8))
    assert [record.message for record in caplog.records if "attention" in record.message] == [
        "attention: mapped on cpu at length 8 (one head at a time stays in a core's cache)"
    ]
