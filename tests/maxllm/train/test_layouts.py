"""One truth: loss and gradients on one device. Every layout must match it, tensor by tensor."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import abstract, create
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout, shardings
from maxllm.train.state import create_state
from maxllm.train.step import accumulated_gradients, make_train_step

ROWS, LENGTH, VOCAB = 32, 12, 64
TOLERANCE = 1e-5  # relative L2 of each tensor, float32


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# (data, fsdp, tensor), micro-batches: each axis and each product of axes, with and without accumulation.
LAYOUTS = [
    ((8, 1, 1), 4),
    ((1, 8, 1), 1),
    ((1, 1, 4), 4),
    ((4, 2, 1), 4),
    ((2, 1, 4), 1),
    ((1, 2, 4), 4),
    ((2, 2, 2), 1),
    ((2, 2, 2), 4),
    slow((8, 1, 1), 1),
    slow((1, 8, 1), 4),
    slow((1, 1, 4), 1),
    slow((4, 2, 1), 1),
    slow((2, 1, 4), 4),
    slow((1, 2, 4), 1),
]


def config(**changes) -> ModelConfig:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2}
    return ModelConfig(**shape | {"num_heads": 8, "num_kv_heads": 4, "max_positions": LENGTH} | changes)


def packed_rows() -> Batch:
    """Packed documents of uneven lengths, padding, and weights that differ from row to row and token to token."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    segment_ids = np.sort(generator.integers(1, 4, (ROWS, LENGTH)), axis=1).astype(np.int32)
    segment_ids[:, LENGTH - 2 :] = 0
    starts = [[np.flatnonzero(row == segment)[0] for segment in row] for row in segment_ids]
    positions = (np.arange(LENGTH) - np.array(starts)).astype(np.int32)
    weights = generator.choice([0.0, 0.5, 1.0], (ROWS, LENGTH)) * generator.uniform(0, 2, (ROWS, 1))
    weights[segment_ids == 0] = 0
    weights[3] = 0
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, weights.astype(np.float32))


def loss_and_gradients(model: ModelConfig, axes: tuple[int, int, int], micro_batches: int, remat: str = "none"):
    mesh = mesh_of(axes)
    check_layout(model, mesh, ROWS // micro_batches)
    compute = ComputeConfig(dtype="float32", remat=remat, loss_chunk=20)
    parameters = jax.device_put(initial(model), shardings(initial(model), mesh))
    structure, _ = abstract(model, compute)
    compute_gradients = functools.partial(accumulated_gradients, structure, causal_lm, accumulation_steps=micro_batches)
    with jax.set_mesh(mesh):
        gradients, terms = jax.jit(compute_gradients)(parameters, place_batch(packed_rows(), mesh))
    return terms["loss"].mean(), {".".join(p): np.asarray(g) for p, g in nnx.to_flat_state(jax.device_get(gradients))}


@functools.cache
def initial(model: ModelConfig) -> nnx.State:
    """Larger than a training run begins with: near 0, a uniform softmax would hide errors."""
    fresh = create(model, ComputeConfig(), mesh_of((1, 1, 1)), seed=0)
    return jax.tree.map(lambda x: 5 * x, nnx.state(fresh))


def mesh_of(axes: tuple[int, int, int]):
    data, fsdp, tensor = axes
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


@functools.cache
def truth(**changes):
    return loss_and_gradients(config(**changes), (1, 1, 1), 1)


def assert_equal(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=TOLERANCE)
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        difference = np.linalg.norm(got[1][name] - gradient) / np.linalg.norm(gradient)
        assert difference <= TOLERANCE, f"{name}: relative L2 {difference:.2e}"


@pytest.mark.parametrize("axes, micro_batches", LAYOUTS, ids=str)
def test_a_layout_gives_the_loss_and_every_gradient_of_one_device(axes, micro_batches):
    assert_equal(loss_and_gradients(config(), axes, micro_batches), truth())


def test_accumulation_alone_changes_nothing():
    assert_equal(loss_and_gradients(config(), (1, 1, 1), 4), truth())


def test_a_tied_head_and_eight_way_tensor_parallel():
    changes = {"tie_embeddings": True, "num_kv_heads": 8}
    assert_equal(loss_and_gradients(config(**changes), (1, 1, 8), 1), truth(**changes))


@pytest.mark.slow
def test_rematerialising_on_a_mesh():
    assert_equal(loss_and_gradients(config(), (2, 2, 2), 1, remat="dots"), truth())


def test_steps_on_a_mesh_are_the_steps_of_one_device():
    optimizer = make_optimizer(OptimizerConfig(eps=1e-3), ScheduleConfig(warmup_steps=2), 10)
    losses = {}
    for axes in ((1, 1, 1), (2, 2, 2)):
        mesh = mesh_of(axes)
        structure, state = create_state(create(config(), ComputeConfig(dtype="float32"), mesh, seed=0), optimizer, mesh)
        step = make_train_step(structure, causal_lm, optimizer, mesh, accumulation_steps=2)
        batch = place_batch(packed_rows(), mesh)
        losses[axes] = []
        for _ in range(3):
            state, metrics = step(state, batch)
            losses[axes].append([float(metrics["loss"]), float(metrics["gradient_norm"])])
        wide = state.optimizer[1][0].mu.layers.mlp.up.kernel.get_raw_value()
        assert wide.sharding.shard_shape(wide.shape) == (2, 32 // axes[1], 48 // axes[2])
    np.testing.assert_allclose(losses[2, 2, 2], losses[1, 1, 1], rtol=TOLERANCE)
