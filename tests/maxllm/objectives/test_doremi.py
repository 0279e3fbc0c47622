"""DoReMi's update against its formula in NumPy float64, token by token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.models import create
from maxllm.objectives import doremi
from maxllm.objectives.weighted import Weighted
from maxllm.parallel.mesh import single_device_mesh

DOMAINS, ROWS, LENGTH, VOCAB = 3, 6, 12, 48


def model(seed: int, hidden: int):
    shape = {"hidden_size": hidden, "intermediate_size": 24, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
    config = ModelConfig(vocab_size=VOCAB, max_positions=LENGTH, init_std=0.5, **shape)
    return create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=seed)


excess = nnx.jit(doremi.excess, static_argnums=3)


def batch(domains: list[int]) -> Batch:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    weights = generator.choice([0.0, 0.5, 1.0], (ROWS, LENGTH)).astype(np.float32)
    segments = np.ones((ROWS, LENGTH), np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], segments, positions, weights, np.array(domains, np.int32)[:, None])


def slow_losses(model, batch: Batch) -> np.ndarray:
    logits = np.asarray(nnx.jit(model)(batch.tokens, batch.positions, batch.segment_ids), np.float64)
    normaliser = np.log(np.exp(logits).sum(-1))
    return normaliser - np.take_along_axis(logits, batch.targets[..., None], -1)[..., 0]


def slow_step(alpha, average, last, proxy_losses, reference_losses, batch, step, eta, c):
    """Algorithm 1 in loops: new alpha, its average, lambda, and the weight of every token in the loss."""
    counts, sums = [0.0] * DOMAINS, [0.0] * DOMAINS
    for row in range(ROWS):
        for place in range(LENGTH):
            domain, weight = int(batch.domains[row, 0]), float(batch.weights[row, place])
            counts[domain] += weight
            sums[domain] += weight * max(proxy_losses[row, place] - reference_losses[row, place], 0.0)
    excess = [sums[i] / counts[i] if counts[i] else last[i] for i in range(DOMAINS)]
    raised = [alpha[i] * np.exp(eta * excess[i]) for i in range(DOMAINS)]
    alpha = [(1 - c) * value / sum(raised) + c / DOMAINS for value in raised]
    average = [(average[i] * step + alpha[i]) / (step + 1) for i in range(DOMAINS)]
    each = [alpha[i] / counts[i] if counts[i] else 0.0 for i in range(DOMAINS)]
    weights = [
        [float(batch.weights[r, p]) * each[int(batch.domains[r, 0])] for p in range(LENGTH)] for r in range(ROWS)
    ]
    return alpha, average, excess, np.array(weights)


@pytest.mark.parametrize("domains", [[0, 1, 2, 0, 1, 2], [0, 0, 0, 2, 2, 0]], ids=["all", "one absent"])
def test_the_update_is_the_papers(domains):
    proxy, reference, rows = model(0, 16), model(1, 8), batch(domains)
    losses = slow_losses(proxy, rows), slow_losses(reference, rows)
    np.testing.assert_allclose(doremi.token_losses(proxy, rows), losses[0], rtol=1e-5)
    weights = doremi.initial(DOMAINS)
    slow = [1 / 3] * DOMAINS, [0.0] * DOMAINS, [0.0] * DOMAINS
    for step in range(4):
        found = excess(proxy, reference, rows, DOMAINS)
        weights = doremi.update(weights, found, jnp.int32(step), step_size=0.7, smoothing=0.05)
        *slow, token_weights = slow_step(*slow, *losses, rows, step, eta=0.7, c=0.05)
        for fast, one in zip(weights, slow, strict=True):
            np.testing.assert_allclose(fast, one, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(doremi.reweighted(rows, weights, found).weights, token_weights, rtol=1e-5)
    assert float(weights.now.sum()) == pytest.approx(1)
    assert not np.allclose(weights.now, 1 / 3, atol=0.01)


def test_logits_a_few_positions_at_a_time_change_nothing(monkeypatch):
    proxy, rows = model(0, 16), batch([0] * ROWS)
    whole = doremi.token_losses(proxy, rows)
    monkeypatch.setattr(doremi, "_LOGITS", 5 * ROWS * VOCAB)  # 5 positions of 12
    np.testing.assert_allclose(doremi.token_losses(proxy, rows), whole, rtol=1e-6)


def test_a_domain_without_headroom_loses_weight_and_smoothing_keeps_it_alive():
    weights = doremi.initial(2)
    found = Weighted(jnp.array([50.0, 0.0]), jnp.array([10.0, 10.0]))
    for step in range(20):
        weights = jax.jit(doremi.update, static_argnames=("step_size", "smoothing"))(
            weights, found, jnp.int32(step), step_size=1.0, smoothing=1e-3
        )
    assert weights.now[1] == pytest.approx(1e-3 / 2, rel=0.01)
