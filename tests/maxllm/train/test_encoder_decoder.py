"""Pairs of texts through the one train step: on a mesh as on one device, and they are learned."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import abstract, create
from maxllm.objectives.encoder_decoder import encoder_decoder
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout, shardings
from maxllm.train.state import create_state
from maxllm.train.step import accumulated_gradients, make_train_step

ROWS, READ, WRITTEN, VOCAB = 16, 12, 8, 64
TOLERANCE = 1e-5  # relative L2 of each tensor, float32
SHAPE = {
    "architecture": "encoder_decoder",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 8,
    "num_kv_heads": 8,
    "max_positions": 16,
    "tie_embeddings": True,
}
T5 = SHAPE | {
    "positions": "relative",
    "attention_scale": 1.0,
    "encoder_decoder": {"num_encoder_layers": 2, "relative_buckets": 8, "relative_distance": 12},
}
BART = SHAPE | {
    "positions": "learned",
    "norm": "layer",
    "norm_placement": "post",
    "embedding_norm": True,
    "gated": False,
    "activation": "gelu",
    "biases": ("query_key_value", "output", "mlp"),
    "encoder_decoder": {"num_encoder_layers": 2, "position_offset": 2},
}
MODELS = {"t5": T5, "bart": BART}


def side(generator: np.random.Generator, length: int) -> Batch:
    """Two segments a row of uneven lengths, and padding."""
    tokens = generator.integers(0, VOCAB, (ROWS, length + 1)).astype(np.int32)
    cut = generator.integers(1, length - 2, (ROWS, 1))
    index = np.arange(length)
    segment_ids = np.where(index < cut, 1, np.where(index < length - 1, 2, 0)).astype(np.int32)
    positions = np.where(segment_ids == 2, index - cut, index).astype(np.int32)
    weights = generator.choice([0.5, 1.0], (ROWS, length)) * (segment_ids > 0)
    return Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, weights.astype(np.float32))


def batch() -> EncoderDecoderBatch:
    generator = np.random.default_rng(0)
    return EncoderDecoderBatch(side(generator, READ), side(generator, WRITTEN))


def mesh_of(axes: dict[str, int]):
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[: math.prod(axes.values())])


def loss_and_gradients(name: str, axes: dict[str, int], micro_batches: int, remat: str = "none"):
    config, mesh = ModelConfig(**MODELS[name]), mesh_of(axes)
    check_layout(config, mesh, ROWS // micro_batches, READ)
    structure, _ = abstract(config, ComputeConfig(dtype="float32", remat=remat))
    parameters = jax.device_put(initial(name), shardings(initial(name), mesh))
    gradients_of = functools.partial(
        accumulated_gradients, structure, encoder_decoder, accumulation_steps=micro_batches
    )
    with jax.set_mesh(mesh):
        gradients, terms = jax.jit(lambda parameters, batch: gradients_of(parameters, batch))(
            parameters, place_batch(batch(), mesh)
        )
    return terms["loss"].mean(), {".".join(p): np.asarray(g) for p, g in nnx.to_flat_state(jax.device_get(gradients))}


@functools.cache
def initial(name: str) -> nnx.State:
    """Larger than a training run begins with: near 0, a uniform softmax would hide errors."""
    fresh = create(ModelConfig(**MODELS[name]), ComputeConfig(), mesh_of({}), seed=0)
    return jax.tree.map(lambda x: 3 * x, nnx.state(fresh))


@functools.cache
def truth(name: str):
    return loss_and_gradients(name, {}, 1)


def _matrix():
    yield "t5", {"data": 2, "fsdp": 2, "tensor": 2}, 2, "attention"
    for name in MODELS:
        for axes in ({"data": 8}, {"fsdp": 8}, {"tensor": 8}, {"expert": 4}, {"fsdp": 4, "tensor": 2}):
            yield pytest.param(name, axes, 1, "full", marks=pytest.mark.slow)


@pytest.mark.parametrize("name, axes, micro_batches, remat", _matrix(), ids=str)
def test_a_layout_gives_the_loss_and_every_gradient_of_one_device(name, axes, micro_batches, remat):
    loss, gradients = loss_and_gradients(name, axes, micro_batches, remat)
    expected, truths = truth(name)
    np.testing.assert_allclose(loss, expected, rtol=TOLERANCE)
    # A bias of keys moves all of a query's scores alike: its gradient is zero, and rounding.
    rounding = 1e-7 * max(np.linalg.norm(gradient) for gradient in truths.values())
    for path, gradient in truths.items():
        difference = np.linalg.norm(gradients[path] - gradient)
        assert difference <= TOLERANCE * np.linalg.norm(gradient) + rounding, (path, difference)


def test_what_was_read_is_learned():
    """The targets are the tokens read, which a decoder that sees only what it wrote (zeros) cannot know."""
    mesh = mesh_of({})
    config = ModelConfig(**T5 | {"vocab_size": 8, "init_std": 0.1})
    optimizer = make_optimizer(OptimizerConfig(learning_rate=2e-2), ScheduleConfig(warmup_steps=5), 40)
    structure, state = create_state(create(config, ComputeConfig(dtype="float32"), mesh, seed=0), optimizer, mesh)
    step = make_train_step(structure, encoder_decoder, optimizer, mesh)
    positions = np.tile(np.arange(2, dtype=np.int32), (32, 1))
    generator, losses = np.random.default_rng(0), []
    for _ in range(40):
        tokens = generator.integers(1, 8, (32, 2)).astype(np.int32)
        ones, zeros = np.ones_like(tokens), np.zeros_like(tokens)
        read = Batch(tokens, zeros, ones, positions, zeros.astype(np.float32))
        written = Batch(zeros, tokens, ones, positions, ones.astype(np.float32))
        state, metrics = step(state, place_batch(EncoderDecoderBatch(read, written), mesh))
        losses.append(float(metrics["loss"]))
    assert losses[0] > 1.8  # ln 7 = 1.95 is what guessing costs
    assert np.mean(losses[-5:]) < 1.0, losses
