"""Every road to attention gives the same numbers, packed or not."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.kernels import attention_blocks, attention_mapped
from maxllm.kernels.attention import attention
from maxllm.kernels.attention_choice import BACKENDS as ALL
from maxllm.kernels.attention_splash import splash
from maxllm.kernels.masking import CAUSAL, Masking

FAST = ["mapped", "blockwise"]
# Pallas kernels run in JAX's interpreter here.
RUN = {name: ALL[name].run for name in ("reference", *FAST)} | {"splash": functools.partial(splash, interpret=True)}
GEMMA = Masking(window=5, softcap=2.0, scale=0.5)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in short sequences."""
    monkeypatch.setattr(attention_blocks, "BLOCK", 12)
    monkeypatch.setattr(attention_mapped, "BLOCK", 12)


def inputs(length: int, heads: int = 4, kv_heads: int = 2, head_dim: int = 8, batch: int = 2, dtype=jnp.float32):
    random = np.random.default_rng(length)
    return [
        jnp.asarray(random.normal(size=(batch, length, n, head_dim)), dtype) for n in (heads, kv_heads, kv_heads, heads)
    ]


def value_and_gradients(backend: str, query, key, value, cotangent, segment_ids=None, masking=CAUSAL):
    def run(query, key, value, cotangent, segment_ids):
        output, pull = jax.vjp(lambda *x: RUN[backend](*x, segment_ids, masking), query, key, value)
        return (output, *pull(cotangent))

    return jax.jit(run)(query, key, value, cotangent, segment_ids)


def segments(length: int, batch: int = 2) -> jax.Array:
    return jnp.asarray(np.sort(np.random.default_rng(length).integers(0, 4, (batch, length)), axis=1), jnp.int32)


def assert_close(got, want, tolerance=2e-6):
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        # Where each query sees one key, the gradient of its softmax is 0: relative to numbers of 0.3, then.
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 0.3 * b.size**0.5)


def assert_equals_the_reference(backend, length, kv_heads, packed, masking):
    arrays = inputs(length, kv_heads=kv_heads)
    segment_ids = segments(length) if packed else None
    want = value_and_gradients("reference", *arrays, segment_ids, masking)
    assert_close(value_and_gradients(backend, *arrays, segment_ids, masking), want, 5e-6)


def test_the_reference_hides_what_it_says_it_hides():
    """Against the definition, one query at a time, in float64."""
    length, masking = 9, Masking(window=3, softcap=1.5, scale=0.7)
    query, key, value, _ = (np.asarray(x, np.float64) for x in inputs(length, heads=2, kv_heads=1, batch=1))
    ids = [1, 1, 1, 1, 7, 7, 7, 1, 1]  # the id 1 again is another run
    runs = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    got = attention(*map(jnp.float32, (query, key, value)), segment_ids=jnp.asarray([ids]), masking=masking)
    for head, q in itertools.product(range(2), range(length)):
        seen = [k for k in range(length) if runs[k] == runs[q] and 0 <= q - k < 3]
        scores = 1.5 * np.tanh(0.7 * key[0, seen, 0] @ query[0, q, head] / 1.5)
        weights = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(got[0, q, head], weights @ value[0, seen, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "backend, length, kv_heads, packed, masking",
    [
        ("mapped", 24, 2, False, CAUSAL),
        ("mapped", 27, 1, True, GEMMA),
        ("mapped", 27, 2, True, Masking(causal=False, window=7)),
        ("blockwise", 24, 2, False, CAUSAL),
        ("blockwise", 40, 1, True, GEMMA),
        ("blockwise", 40, 2, True, Masking(causal=False, window=7)),
        ("splash", 130, 2, True, GEMMA),  # neither the length nor head_dim is what the kernel wants
    ],
)
def test_every_backend_equals_the_reference_forward_and_backward(backend, length, kv_heads, packed, masking):
    assert_equals_the_reference(backend, length, kv_heads, packed, masking)


MASKINGS = [
    Masking(causal=causal, window=window, softcap=softcap)
    for causal, window, softcap in itertools.product((True, False), (None, 1, 5), (None, 2.0))
]


@pytest.mark.slow
@pytest.mark.parametrize("masking", MASKINGS, ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["one-segment", "packed"])
@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("backend", [*FAST, "splash"])
def test_every_combination_equals_the_reference(backend, kv_heads, packed, masking):
    assert_equals_the_reference(backend, 130 if backend == "splash" else 29, kv_heads, packed, masking)


@pytest.mark.parametrize("backend", ["reference", *FAST, pytest.param("splash", marks=pytest.mark.slow)])
def test_packed_equals_unpacked_forward_and_backward(backend):
    lengths = [11, 1, 9, 3]  # the last one is padding
    bounds = np.cumsum([0, *lengths])
    arrays = inputs(sum(lengths), batch=1)
    segment_ids = jnp.repeat(jnp.asarray([1, 2, 3, 0]), jnp.asarray(lengths))[None]
    packed = value_and_gradients(backend, *arrays, segment_ids=segment_ids)
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        alone = value_and_gradients("reference", *(x[:, begin:end] for x in arrays))
        assert_close([x[:, begin:end] for x in packed], alone)


@pytest.mark.parametrize("backend", FAST)
def test_a_segment_sees_nothing_of_the_others(backend):
    query, key, value, _ = inputs(24, batch=1)
    segment_ids = jnp.repeat(jnp.asarray([1, 2, 0]), 8)[None]
    before = attention(query, key, value, segment_ids=segment_ids, backend=backend)
    others = key.at[:, 16:].set(1e9), value.at[:, :8].set(1e9)
    after = attention(query, *others, segment_ids=segment_ids, backend=backend)
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
