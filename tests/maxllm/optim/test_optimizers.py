"""AdamW is its formula; decay pulls on matrices only; the schedule goes where it says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import abstract
from maxllm.optim import make_optimizer, make_schedule
from maxllm.optim.optimizers import decays


def test_the_schedule_warms_up_to_the_peak_and_ends_at_its_final_ratio():
    schedule = make_schedule(ScheduleConfig(warmup_steps=4, final_ratio=0.1), 1.0, 104)
    np.testing.assert_allclose([schedule(k) for k in range(4)], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(schedule(54), (1 + 0.1) / 2, rtol=1e-6)
    np.testing.assert_allclose(schedule(104), 0.1, rtol=1e-6)
    assert all(schedule(k) >= schedule(k + 1) for k in range(3, 104))


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_warmup_the_first_step_is_at_the_peak(warmup):
    assert make_schedule(ScheduleConfig(warmup_steps=warmup), 2.0, 10)(0) == 2.0


def test_decay_pulls_on_every_matrix_and_on_no_norm_stacked_or_not():
    _, parameters = abstract(ModelConfig(tie_embeddings=False))
    kept = {".".join(path) for path, decay in nnx.to_flat_state(decays(parameters)) if not decay}
    assert kept == {"layers.attention_norm.weight", "layers.mlp_norm.weight", "norm.weight"}


def test_decay_pulls_on_no_bias_and_on_heads_matrices():
    shape = {"architecture": "encoder", "positions": "learned", "tie_embeddings": True, "norm": "layer"}
    biases = ("query_key_value", "output", "mlp")
    head = {"head": "next_sentence", "embedding_size": 16}
    _, parameters = abstract(ModelConfig(**shape, biases=biases, gated=False, encoder=head))
    kept = {path for path, decay in nnx.to_flat_state(decays(parameters)) if not decay}
    assert {path[-1] for path in kept} == {"bias", "weight", "embedding"}
    assert {path for path in kept if path[-1] == "embedding"} == {("position", "embedding")}


def test_a_step_is_adamws_formula_with_clipping():
    config = OptimizerConfig(learning_rate=0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    optimizer = make_optimizer(config, ScheduleConfig(final_ratio=1.0), 10)
    parameters = {
        "kernel": nnx.Param(jnp.asarray([[1.0, -2.0]]), axes=("embed", "mlp")),
        "norm": nnx.Param(jnp.asarray([1.0]), axes=("norm",)),
    }
    values = {name: np.asarray(p[...], np.float64) for name, p in parameters.items()}
    moments = {name: (0.0, 0.0) for name in values}
    state = optimizer.init(parameters)
    for step in (1, 2):
        raw = {"kernel": np.array([[3.0, 4.0 * step]]), "norm": np.array([12.0])}
        gradients = {name: p.replace(jnp.asarray(raw[name], jnp.float32)) for name, p in parameters.items()}
        updates, state = optimizer.update(gradients, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        norm = np.sqrt(sum((g**2).sum() for g in raw.values()))
        for name, gradient in raw.items():
            gradient = gradient / max(norm, 1.0)
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
            moments[name] = m, v
            adam = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
            decay = 0.1 * values[name] if name == "kernel" else 0.0
            values[name] = values[name] - 0.1 * (adam + decay)
            np.testing.assert_allclose(parameters[name][...], values[name], rtol=1e-5)


def test_without_clipping_a_large_gradient_stays_large():
    optimizer = make_optimizer(OptimizerConfig(clip_norm=None, eps=1.0), ScheduleConfig(final_ratio=1.0), 10)
    parameters = {"norm": nnx.Param(jnp.ones(1), axes=("norm",))}
    state = optimizer.init(parameters)
    big, _ = optimizer.update(jax.tree.map(lambda x: 100 * x, parameters), state, parameters)
    small, _ = optimizer.update(parameters, state, parameters)
    assert abs(big["norm"][0]) > 1.5 * abs(small["norm"][0])
