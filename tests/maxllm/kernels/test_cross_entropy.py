"""Cross-entropy in chunks is cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxllm.config.parallel import MeshConfig
from maxllm.kernels import cross_entropy as module
from maxllm.kernels.cross_entropy import cross_entropy, token_cross_entropy
from maxllm.parallel.mesh import make_mesh

VOCAB = 24


def inputs(batch: int = 8, length: int = 6, embed: int = 16):
    generator = np.random.default_rng(0)
    hidden = jnp.asarray(generator.normal(size=(batch, length, embed)), jnp.float32)
    head = jnp.asarray(generator.normal(size=(embed, VOCAB)), jnp.float32)
    targets = jnp.asarray(generator.integers(0, VOCAB, (batch, length)), jnp.int32)
    weights = jnp.asarray(generator.choice([0.0, 1.0, 0.25], (batch, length)), jnp.float32)
    return hidden, head, targets, weights


def plain(hidden, head, targets, weights, softcap=None):
    """The twin: all the logits, and JAX's own gradient."""
    return (token_cross_entropy(hidden, head, targets, softcap) * weights).sum()


def with_gradients(function, *arrays):
    return jax.tree.leaves(jax.jit(jax.value_and_grad(lambda *a: 3.0 * function(*a), argnums=(0, 1)))(*arrays))


def assert_close(got, want, tolerance=1e-6):
    for a, b in zip(got, want, strict=True):
        assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= tolerance * np.linalg.norm(np.asarray(b))


def test_token_cross_entropy_is_minus_the_log_of_the_softmax():
    hidden, head, targets, _ = inputs()
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = -np.log(np.take_along_axis(probabilities, np.asarray(targets)[..., None], -1))[..., 0]
    np.testing.assert_allclose(token_cross_entropy(hidden, head, targets), want, rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, 1, 7, 48, 1000])
def test_any_chunk_gives_the_same_sum_and_gradients(chunk):
    arrays = inputs()
    assert_close(with_gradients(lambda *a: cross_entropy(*a, chunk), *arrays), with_gradients(plain, *arrays))
    np.testing.assert_allclose(cross_entropy(*arrays, chunk), plain(*arrays), rtol=1e-6)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 1, 8), (1, 2, 4)], ids=str)
def test_any_mesh_gives_the_same_sum_and_gradients(axes):
    arrays = inputs()
    want = with_gradients(plain, *arrays)
    with jax.set_mesh(make_mesh(MeshConfig(data=axes[0], fsdp=axes[1], tensor=axes[2]))):
        assert_close(with_gradients(lambda *a: cross_entropy(*a, 5), *arrays), want)


@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 8, 1), (1, 2, 4)], ids=str)
def test_columns_one_block_after_another_give_the_same_sum_and_gradients(axes, monkeypatch):
    """What accelerators do where the head's gradient is kept in parts; here with blocks of a few columns."""
    monkeypatch.setattr(module, "_by_columns_pays", lambda: True)
    monkeypatch.setattr(module, "_LOGITS", 36)  # six columns of six tokens
    arrays = inputs()
    with jax.set_mesh(make_mesh(MeshConfig(data=axes[0], fsdp=axes[1], tensor=axes[2]))):
        got = with_gradients(cross_entropy, *arrays)
    assert_close(got, with_gradients(plain, *arrays))


@pytest.mark.parametrize("by_columns", [False, True])
def test_capped_logits_have_the_capped_gradient(by_columns, monkeypatch):
    """Gemma 2's, with logits of up to several times the cap; by rows, and by columns on a mesh."""
    monkeypatch.setattr(module, "_by_columns_pays", lambda: by_columns)
    monkeypatch.setattr(module, "_LOGITS", 36)
    arrays = inputs()
    want = with_gradients(lambda *a: plain(*a, 2.0), *arrays)
    by_hand = 2.0 * np.tanh(np.asarray(arrays[0], np.float64) @ np.asarray(arrays[1], np.float64) / 2.0)
    chosen = np.take_along_axis(by_hand, np.asarray(arrays[2])[..., None], -1)[..., 0]
    expected = ((np.log(np.exp(by_hand).sum(-1)) - chosen) * np.asarray(arrays[3])).sum()
    np.testing.assert_allclose(plain(*arrays, 2.0), expected, rtol=1e-5)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        got = with_gradients(lambda *a: cross_entropy(*a, 0, 2.0), *arrays)
    assert_close(got, want, 2e-6)


def test_a_block_of_columns_is_whole_tiles_where_it_can_be():
    assert module._column_block(8192, 128256) == 21376  # 167 tiles; six blocks of 0.7 GB
    assert module._column_block(16384, 32000) == 16000
    assert module._column_block(10**6, 10) == 10  # never none


def test_the_logits_of_all_tokens_never_exist_at_once():
    hidden, head, targets, weights = inputs(batch=64, length=64)
    logits = 64 * 64 * VOCAB * 4

    def temporary_bytes(function):
        step = jax.jit(jax.grad(function, argnums=(0, 1)))
        return step.lower(hidden, head, targets, weights).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(plain) >= logits
    assert temporary_bytes(lambda *a: cross_entropy(*a, 64)) < logits


def test_bfloat16_activations_still_give_a_float32_loss_near_the_exact_one():
    hidden, head, targets, weights = inputs()
    loss = cross_entropy(hidden.astype(jnp.bfloat16), head, targets, weights)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, plain(hidden, head, targets, weights), rtol=1e-2)
