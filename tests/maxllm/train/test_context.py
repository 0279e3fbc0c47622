"""Rows spread over devices give the loss and the gradients of one device."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models import abstract, create
from maxllm.models.mlp import FeedForward
from maxllm.objectives import causal_lm, doremi
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout, constrain, shardings
from maxllm.parallel.sequence import balanced
from maxllm.train import loop
from maxllm.train.metrics import read
from maxllm.train.step import accumulated_gradients

ROWS, LENGTH, VOCAB = 8, 32, 64
TOLERANCE = 1e-5  # relative L2 of each tensor, float32
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    max_positions=LENGTH,
)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def packed_rows() -> Batch:
    """Documents of uneven lengths that cross the stretches, padding, and weights that differ from token to token."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    segment_ids = np.sort(generator.integers(1, 4, (ROWS, LENGTH)), axis=1).astype(np.int32)
    segment_ids[:, LENGTH - 5 :] = 0
    starts = [[np.flatnonzero(row == segment)[0] for segment in row] for row in segment_ids]
    positions = (np.arange(LENGTH) - np.array(starts)).astype(np.int32)
    weights = generator.uniform(0, 2, (ROWS, LENGTH)).astype(np.float32) * (segment_ids > 0)
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, weights.astype(np.float32))


def mesh_of(**axes: int):
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[: int(np.prod(list(axes.values())))])


@functools.cache
def initial() -> nnx.State:
    """Larger than a training run begins with: near 0, a uniform softmax would hide errors."""
    return jax.tree.map(lambda x: 5 * x, nnx.state(create(MODEL, ComputeConfig(), mesh_of(), seed=0)))


def loss_and_gradients(axes: dict[str, int], micro_batches: int = 1, **compute):
    mesh = mesh_of(**axes)
    check_layout(MODEL, mesh, ROWS // micro_batches, LENGTH)
    structure, _ = abstract(MODEL, ComputeConfig(dtype="float32", loss_chunk=20, **compute))
    parameters = jax.device_put(initial(), shardings(initial(), mesh))
    compute_gradients = functools.partial(accumulated_gradients, structure, causal_lm, accumulation_steps=micro_batches)
    with jax.set_mesh(mesh):
        gradients, terms = jax.jit(compute_gradients)(parameters, place_batch(packed_rows(), mesh))
    return terms["loss"].mean(), {".".join(p): np.asarray(g) for p, g in nnx.to_flat_state(jax.device_get(gradients))}


@functools.cache
def truth():
    return loss_and_gradients({})


def test_no_device_multiplies_with_the_tokens_of_another():
    """Two rows on each device, a stretch of each: what the compiler cannot write as one axis, unless told how."""
    model = FeedForward(64, 128, std=1.0, rngs=nnx.Rngs(0))
    mesh = mesh_of(context=4, fsdp=2)
    parameters = nnx.state(model)

    def run(parameters, x):
        x = constrain(x, "batch", "sequence", None)
        return (constrain(nnx.merge(nnx.graphdef(model), parameters)(x), "batch", "sequence", None) ** 2).sum()

    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(run, argnums=(0, 1)), in_shardings=(shardings(parameters, mesh), None))
        flops = program.lower(parameters, np.zeros((4, 256, 64), np.float32)).compile().cost_analysis()["flops"]
    products = 3 * 3 * 2 * 4 * 256 * 64 * 128  # three matrices, forward and twice backward
    assert flops < 1.1 * products / 8


@pytest.mark.slow
def test_losses_of_single_tokens_come_in_the_order_in_which_the_row_lies(monkeypatch):
    """What DoReMi compares, over as many devices."""
    monkeypatch.setattr(doremi, "_LOGITS", 4 * ROWS * VOCAB)
    found = {}
    for context in (1, 4):
        mesh = mesh_of(context=context, data=2)
        structure, _ = abstract(MODEL, ComputeConfig(dtype="float32"))
        parameters = jax.device_put(initial(), shardings(initial(), mesh))
        losses = jax.jit(lambda parameters, batch: doremi.token_losses(nnx.merge(structure, parameters), batch))  # noqa: B023
        with jax.set_mesh(mesh):
            found[context] = np.asarray(losses(parameters, place_batch(packed_rows(), mesh)))
    np.testing.assert_allclose(found[4], found[1][:, balanced(LENGTH, 4)], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "phases", "doremi"])
def test_a_run_on_a_context_axis_is_the_run_without(kind, configured, domains, tmp_path):
    changes = {"train": {"steps": 6, "log_every": 1}, "data": {"sources": domains}}
    if kind == "phases":
        phases = [{"until": 0.5, "sequence_length": 16, "weights": {"easy": 1, "hard": 1}}, {"until": 1}]
        changes["data"] |= {"phases": phases}
    if kind == "doremi":
        loop.train(configured(**changes | {"train": changes["train"] | {"run_dir": str(tmp_path / "reference")}}))
        changes["objective"] = {"name": "doremi", "reference": str(tmp_path / "reference")}
    records = []
    for number, mesh in enumerate(({}, {"context": 2, "tensor": 2})):
        folder = tmp_path / str(number)
        loop.train(configured(**changes | {"mesh": mesh, "train": changes["train"] | {"run_dir": str(folder)}}))
        records.append(read(folder / "metrics.jsonl"))
    assert records[0][-1].keys() >= {"held_out_loss"} | ({"domain_weight/easy"} if kind == "doremi" else set())
    for whole, spread in zip(*records, strict=True):
        for name in whole.keys() & {"loss", "held_out_loss", "weight", "gradient_norm", "domain_weight/easy"}:
            assert spread[name] == pytest.approx(whole[name], rel=1e-4), (whole["step"], name)


def test_a_phase_too_short_to_be_dealt_out_is_one_sentence(configured):
    phases = [{"until": 0.5, "sequence_length": 8}, {"until": 1}]
    with pytest.raises(UserError, match="sequence_length 8 is not divisible by 2 x mesh.context = 16"):
        loop.train(configured(mesh={"context": 8}, data={"phases": phases}))


@pytest.mark.parametrize(
    "axes, options",
    [
        ({"context": 4}, {}),
        slow({"context": 2, "tensor": 2, "fsdp": 2}, {"context": "all_gather", "micro_batches": 2}),
        slow({"context": 2, "tensor": 2, "fsdp": 2}, {"remat": "attention"}),
        slow({"context": 8}, {"remat": "full"}),
        slow({"context": 4, "data": 2}, {"micro_batches": 4}),
        slow({"context": 2, "expert": 2, "data": 2}, {}),
    ],
    ids=str,
)
def test_a_context_axis_gives_the_loss_and_every_gradient_of_one_device(axes, options):
    got, want = loss_and_gradients(axes, **options), truth()
    np.testing.assert_allclose(got[0], want[0], rtol=TOLERANCE)
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        difference = np.linalg.norm(got[1][name] - gradient) / np.linalg.norm(gradient)
        assert difference <= TOLERANCE, f"{name}: relative L2 {difference:.2e}"
