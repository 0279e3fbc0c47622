"""One truth: loss and gradients on one device. Every layout must match it, tensor by tensor."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig, PipelineConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import abstract, create
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout, shardings
from maxllm.train.state import create_state
from maxllm.train.step import gradient_function, make_train_step

ROWS, LENGTH, VOCAB = 32, 16, 64
TOLERANCE = 1e-5  # relative L2 of each tensor, float32
DENSE: dict[str, int] = {}
EXPERTS = {"num_experts": 4, "experts_per_token": 2}
AXES = ("data", "stage", "fsdp", "expert", "context", "tensor")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def _matrix():
    """Each axis and three named triples by default; every pair with `slow`. (axes, micro-batches, model)"""
    largest = {"data": 8, "stage": 4, "fsdp": 8, "expert": 4, "context": 4, "tensor": 4}
    for number, (axis, size) in enumerate(largest.items()):
        for count in (1, 4):
            model = EXPERTS if axis == "expert" else DENSE
            here = count == (1, 4)[number % 2] or axis == "stage"
            yield ({axis: size}, count, model) if here else slow({axis: size}, count, model)
            if model is DENSE:
                yield slow({axis: size}, count, EXPERTS)
    yield {"data": 2, "stage": 2, "tensor": 2}, 4, DENSE  # the mission's 64 GPUs: tensor 8, pipeline 4, data 2
    yield {"fsdp": 2, "context": 2, "tensor": 2}, 1, DENSE  # long rows
    yield {"fsdp": 2, "expert": 2, "tensor": 2}, 4, EXPERTS
    for one, other in itertools.combinations(AXES, 2):
        for count in (1, 4):
            for model in (DENSE, EXPERTS):
                if model is EXPERTS or "expert" not in (one, other):
                    yield slow({one: 2, other: 4 if other != "stage" else 2}, count, model)


def config(**changes) -> ModelConfig:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_layers": 4}
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


def loss_and_gradients(model: ModelConfig, axes: dict[str, int], micro_batches: int, remat: str = "none"):
    mesh = mesh_of(axes)
    check_layout(model, mesh, ROWS // micro_batches, LENGTH)
    compute = ComputeConfig(dtype="float32", remat=remat, loss_chunk=20)
    parameters = jax.device_put(initial(model), shardings(initial(model), mesh))
    structure, _ = abstract(model, compute)
    gradients_of = gradient_function(mesh, PipelineConfig())
    compute_gradients = functools.partial(gradients_of, structure, causal_lm, accumulation_steps=micro_batches)
    with jax.set_mesh(mesh):
        gradients, terms = jax.jit(compute_gradients)(parameters, place_batch(packed_rows(), mesh))
    return terms["loss"].mean(), {".".join(p): np.asarray(g) for p, g in nnx.to_flat_state(jax.device_get(gradients))}


@functools.cache
def initial(model: ModelConfig) -> nnx.State:
    """Larger than a training run begins with: near 0, a uniform softmax would hide errors."""
    fresh = create(model, ComputeConfig(), mesh_of({}), seed=0)
    return jax.tree.map(lambda x: 3 * x, nnx.state(fresh))


def mesh_of(axes: dict[str, int]):
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[: math.prod(axes.values())])


@functools.cache
def truth(**changes):
    return loss_and_gradients(config(**changes), {}, 1)


def assert_equal(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=TOLERANCE)
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        difference = np.linalg.norm(got[1][name] - gradient) / np.linalg.norm(gradient)
        assert difference <= TOLERANCE, f"{name}: relative L2 {difference:.2e}"


@pytest.mark.parametrize("axes, micro_batches, changes", _matrix(), ids=str)
def test_a_layout_gives_the_loss_and_every_gradient_of_one_device(axes, micro_batches, changes):
    assert_equal(loss_and_gradients(config(**changes), axes, micro_batches), truth(**changes))


def test_accumulation_alone_changes_nothing():
    assert_equal(loss_and_gradients(config(), {}, 4), truth())


def test_a_tied_head_and_eight_way_tensor_parallel():
    changes = {"tie_embeddings": True, "num_kv_heads": 8}
    assert_equal(loss_and_gradients(config(**changes), {"tensor": 8}, 1), truth(**changes))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots", "attention"])
def test_rematerialising_on_a_mesh(remat):
    axes = {"data": 2, "fsdp": 2, "tensor": 2}
    assert_equal(loss_and_gradients(config(), axes, 1, remat=remat), truth())


def test_steps_on_a_mesh_are_the_steps_of_one_device():
    optimizer = make_optimizer(OptimizerConfig(eps=1e-3), ScheduleConfig(warmup_steps=2), 10)
    losses = []
    for axes in ({}, {"data": 2, "fsdp": 2, "tensor": 2}):
        mesh = mesh_of(axes)
        structure, state = create_state(create(config(), ComputeConfig(dtype="float32"), mesh, seed=0), optimizer, mesh)
        step = make_train_step(structure, causal_lm, optimizer, mesh, accumulation_steps=2)
        batch = place_batch(packed_rows(), mesh)
        found = []
        for _ in range(3):
            state, metrics = step(state, batch)
            found.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
        losses.append(found)
        wide = state.optimizer[1][0].mu.layers.mlp.up.kernel.get_raw_value()
        parts = 2 if axes else 1
        assert wide.sharding.shard_shape(wide.shape) == (4, 32 // parts, 48 // parts)
    np.testing.assert_allclose(losses[1], losses[0], rtol=TOLERANCE)
