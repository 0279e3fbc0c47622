"""Layers spread over stages: the loss and every gradient of one device, in as many ticks as the formula says."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig, PipelineConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig, TrainConfig
from maxllm.models import abstract, create
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import shardings
from maxllm.train.checkpoint import Checkpoints
from maxllm.train.pipeline import pipelined_gradients
from maxllm.train.state import abstract_state, create_state
from maxllm.train.step import accumulated_gradients, make_eval_step, make_train_step

ROWS, LENGTH, VOCAB = 16, 12, 64
TOLERANCE = 1e-5  # relative L2 of each tensor, float32
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    max_positions=64,
)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def mesh_of(**axes: int):
    count = int(np.prod(list(axes.values()))) if axes else 1
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[:count])


@functools.cache
def packed_rows() -> Batch:
    """Packed documents, padding, weights that differ; at four micro-batches the last one has no weight at all."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    segment_ids = np.sort(generator.integers(1, 4, (ROWS, LENGTH)), axis=1).astype(np.int32)
    segment_ids[:, LENGTH - 2 :] = 0
    starts = [[np.flatnonzero(row == segment)[0] for segment in row] for row in segment_ids]
    positions = (np.arange(LENGTH) - np.array(starts)).astype(np.int32)
    weights = generator.choice([0.0, 0.5, 1.0], (ROWS, LENGTH)) * generator.uniform(0, 2, (ROWS, 1))
    weights[segment_ids == 0] = 0
    weights[3::4] = 0
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, weights.astype(np.float32))


@functools.cache
def initial() -> nnx.State:
    """Larger than a training run begins with: near 0, a uniform softmax would hide errors."""
    return jax.tree.map(lambda x: 5 * x, nnx.state(create(MODEL, ComputeConfig(), mesh_of(), seed=0)))


def structure_of(**compute):
    return abstract(MODEL, ComputeConfig(**{"dtype": "float32", "attention": "reference"} | compute))[0]


def loss_and_gradients(gradients_of, mesh, micro_batches, **compute):
    compute_gradients = functools.partial(
        gradients_of, structure_of(**compute), causal_lm, accumulation_steps=micro_batches
    )
    parameters = jax.device_put(initial(), shardings(initial(), mesh))
    with jax.set_mesh(mesh):
        gradients, terms = jax.jit(compute_gradients)(parameters, place_batch(packed_rows(), mesh))
    return terms["loss"].mean(), {".".join(p): np.asarray(g) for p, g in nnx.to_flat_state(jax.device_get(gradients))}


@functools.cache
def truth():
    return loss_and_gradients(accumulated_gradients, mesh_of(), 1)


@pytest.mark.parametrize(
    "schedule, axes, micro_batches, compute",
    [
        ("1f1b", {"stage": 4}, 8, {}),
        ("interleaved", {"stage": 2}, 4, {}),
        ("gpipe", {"data": 2, "stage": 2, "tensor": 2}, 4, {}),
        slow("gpipe", {"stage": 4}, 8, {}),
        slow("gpipe", {"stage": 2}, 1, {}),
        slow("1f1b", {"stage": 2}, 1, {}),
        slow("1f1b", {"stage": 4}, 2, {}),
        slow("1f1b", {"stage": 2}, 4, {"remat": "full"}),
        slow("gpipe", {"stage": 2}, 4, {"remat": "full"}),
        slow("interleaved", {"stage": 2}, 8, {"remat": "full"}),
        slow("1f1b", {"data": 2, "stage": 2, "tensor": 2}, 4, {}),
        slow("interleaved", {"data": 2, "stage": 2, "tensor": 2}, 4, {}),
        slow("1f1b", {"stage": 2, "fsdp": 2, "tensor": 2}, 4, {}),
        slow("gpipe", {"stage": 2, "fsdp": 2, "tensor": 2}, 8, {}),
    ],
    ids=str,
)
def test_stages_give_the_loss_and_every_gradient_of_one_device(schedule, axes, micro_batches, compute):
    pipelined = functools.partial(pipelined_gradients, pipeline=PipelineConfig(schedule=schedule))
    loss, gradients = loss_and_gradients(pipelined, mesh_of(**axes), micro_batches, **compute)
    np.testing.assert_allclose(loss, truth()[0], rtol=TOLERANCE)
    assert gradients.keys() == truth()[1].keys()
    for name, gradient in truth()[1].items():
        difference = np.linalg.norm(gradients[name] - gradient) / np.linalg.norm(gradient)
        assert difference <= TOLERANCE, f"{name}: relative L2 {difference:.2e}"


# Ticks and the bubble ------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule, stages, micro_batches", [("gpipe", 4, 8), ("1f1b", 4, 8), ("interleaved", 2, 4)])
def test_the_ticks_of_the_program_are_those_of_the_bubble(schedule, stages, micro_batches):
    """A scan's length is how often its body runs; every body of a kind does the same work."""
    pipeline = PipelineConfig(schedule=schedule)
    mesh = mesh_of(stage=stages)
    gradients_of = functools.partial(
        pipelined_gradients, structure_of(), causal_lm, accumulation_steps=micro_batches, pipeline=pipeline
    )
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), packed_rows())
    with jax.set_mesh(mesh):
        jaxpr = jax.make_jaxpr(gradients_of)(abstract(MODEL)[1], rows)
    # What needs no activation (which rows a tick is about) is a scan of its own.
    scans = [each.params for each in jaxpr.eqns if each.primitive.name == "scan"]
    lengths = [scan["length"] for scan in scans if "dot_general" in str(scan["jaxpr"])]
    passes = micro_batches * (pipeline.chunks if schedule == "interleaved" else 1)
    if schedule == "1f1b":  # forward only, both, backward only
        assert lengths == [stages - 1, micro_batches, stages - 1]
    else:  # forward, the head of each micro-batch, backward
        assert lengths == [passes + stages - 1, micro_batches, passes + stages - 1]
    waiting = 1 - passes / (passes + stages - 1)
    assert pipeline.bubble(stages, micro_batches) == pytest.approx(waiting)


def test_bubbles_of_the_papers_examples():
    """Narayanan et al. 2021, figure 4: 4 stages, 8 micro-batches; one and two groups of layers."""
    for schedule, share in (("gpipe", 3 / 8), ("1f1b", 3 / 8), ("interleaved", 3 / 16)):
        bubble = PipelineConfig(schedule=schedule, chunks=2).bubble(4, 8)
        assert bubble / (1 - bubble) == pytest.approx(share)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"pipeline": {"chunks": 3}, "train": {"accumulation_steps": 4}},
            "num_layers 4 is not divisible by mesh.stage x",
        ),
        ({"train": {"accumulation_steps": 1}}, "accumulation_steps 1 is not divisible by mesh.stage 2"),
        ({"objective": {"name": "doremi", "reference": "x"}, "train": {"accumulation_steps": 2}}, "use mesh.stage=1"),
    ],
)
def test_a_pipeline_that_cannot_work_is_refused_in_a_sentence(settings, message):
    pipeline = {"schedule": "interleaved"} | settings.pop("pipeline", {})
    with pytest.raises(ValueError, match=message):
        TrainConfig(mesh={"stage": 2, "fsdp": 1}, pipeline=pipeline, **settings)


# What padding ticks must not do --------------------------------------------------------------------


def test_what_a_stage_without_a_micro_batch_holds_touches_nothing():
    """Masks, not products with zero: 0 x NaN would be NaN."""
    from maxllm.parallel import pipeline

    x = jnp.array([[jnp.nan, jnp.inf], [1.0, 2.0]])
    np.testing.assert_array_equal(pipeline.where(jnp.array([False, True]), x), [[0, 0], [1, 2]])
    np.testing.assert_array_equal(pipeline.take(x, -1), [1, 2])
    np.testing.assert_array_equal(pipeline.put(x, 0, jnp.zeros(2)), [[0, 0], [1, 2]])


# Slow: evaluation, memory, messages, checkpoints ---------------------------------------------------


def step_on(mesh, schedule="1f1b", micro_batches=4, **more):
    optimizer = make_optimizer(OptimizerConfig(eps=1e-3), ScheduleConfig(warmup_steps=2), 10)
    return optimizer, make_train_step(
        structure_of(),
        causal_lm,
        optimizer,
        mesh,
        accumulation_steps=micro_batches,
        pipeline=PipelineConfig(schedule=schedule),
        **more,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes, zero", [({"data": 2, "stage": 2, "tensor": 2}, 3), ({"data": 2, "stage": 2, "fsdp": 2}, 1)]
)
def test_steps_and_evaluations_in_stages_are_those_of_one_device(axes, zero):
    found = []
    for mesh in (mesh_of(), mesh_of(**axes)):
        optimizer, step = step_on(mesh, zero=zero)
        _, state = create_state(create(MODEL, ComputeConfig(dtype="float32"), mesh, seed=0), optimizer, mesh)
        evaluate = make_eval_step(structure_of(), causal_lm, mesh)
        batch = place_batch(packed_rows(), mesh)
        found.append([])
        for _ in range(2):
            state, metrics = step(state, batch)
            found[-1] += [float(metrics["loss"]), float(metrics["gradient_norm"])]
        found[-1].append(float(evaluate(state.parameters, batch)["loss"].mean()))
    np.testing.assert_allclose(found[1], found[0], rtol=TOLERANCE)


def lowered(mesh, schedule, micro_batches, rows):
    optimizer, step = step_on(mesh, schedule, micro_batches)
    state = abstract_state(abstract(MODEL)[1], optimizer, mesh)
    shapes = Batch(*(jax.ShapeDtypeStruct((rows, 64), dtype) for dtype in [jnp.int32] * 4 + [jnp.float32]))
    return step.lower(state, shapes).compile()


@pytest.mark.slow
def test_1f1b_keeps_no_more_for_more_micro_batches():
    mesh = mesh_of(stage=4)
    temporary = {
        (schedule, count): lowered(mesh, schedule, count, 2 * count).memory_analysis().temp_size_in_bytes
        for schedule in ("gpipe", "1f1b")
        for count in (16, 32)
    }
    assert temporary["1f1b", 32] < 1.05 * temporary["1f1b", 16]
    assert temporary["gpipe", 32] > 1.5 * temporary["gpipe", 16]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_no_layer_leaves_its_stage(schedule):
    """Along `stage` go activations, one message a tick each way, and sums: nothing is gathered or exchanged."""
    lines = lowered(mesh_of(stage=4), schedule, 8, 16).as_text().splitlines()  # one axis: every group is of stages
    assert not [line for line in lines if " all-gather(" in line or " all-to-all(" in line or "-gather-start(" in line]
    messages = [line for line in lines if " collective-permute(" in line or " collective-permute-start(" in line]
    assert len(messages) == (2 if schedule == "gpipe" else 4)  # in the text of three loops: forward 2, backward 2


@pytest.mark.slow
def test_a_checkpoint_of_stages_goes_on_without_them(tmp_path):
    """To the bit: the layers are stored in their plain order, whatever held them."""
    ours, theirs = mesh_of(stage=4), mesh_of(fsdp=8)
    optimizer = make_optimizer(OptimizerConfig(), ScheduleConfig(), 10)
    fresh = [create(MODEL, ComputeConfig(), mesh, seed=3) for mesh in (ours, theirs)]
    _, state = create_state(fresh[0], optimizer, ours)
    checkpoints = Checkpoints(str(tmp_path), keep=1, say=print)
    checkpoints.save(1, {"parameters": state.parameters}, {}, {})
    checkpoints.wait()
    target = abstract_state(nnx.state(fresh[1]), optimizer, theirs)
    restored = checkpoints.restore({"parameters": target.parameters}).trees["parameters"]
    checkpoints.close()
    for got, saved, made in zip(*map(jax.tree.leaves, (restored, state.parameters, nnx.state(fresh[1]))), strict=True):
        assert got.sharding == made.sharding
        np.testing.assert_array_equal(got, saved)
        np.testing.assert_array_equal(got, made)  # initial numbers do not depend on the mesh either
