"""A mixture of experts has one truth too: the loss and every gradient of one device, on every layout."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models import abstract, create
from maxllm.models.decoder import Decoder
from maxllm.objectives import causal_lm
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import check_layout, shardings
from maxllm.train.step import accumulated_gradients

ROWS, LENGTH, VOCAB = 32, 12, 64
TOLERANCE = 1e-5  # relative L2 of each tensor, float32


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# Mesh axes, micro-batches, family. Within a capacity, rows route for themselves: the layout decides nothing there
# either. Routers' losses see a micro-batch: those of the family that has them are compared for as many.
LAYOUTS = [
    ({"expert": 4}, 4, "mixtral"),
    ({"expert": 2, "tensor": 2, "fsdp": 2}, 1, "deepseek"),
    slow({"expert": 2, "tensor": 2, "fsdp": 2}, 4, "deepseek"),
    slow({"expert": 4}, 1, "deepseek"),
    slow({"fsdp": 4, "data": 2}, 4, "deepseek"),
    slow({"expert": 2, "tensor": 2, "fsdp": 2}, 1, "mixtral"),
    slow({"expert": 2, "tensor": 2, "fsdp": 2}, 4, "mixtral"),
    slow({"expert": 4}, 1, "mixtral"),
    slow({"expert": 4, "data": 2}, 1, "mixtral"),
    slow({"expert": 2, "context": 2, "data": 2}, 1, "mixtral"),
    slow({"fsdp": 8}, 1, "mixtral"),
    slow({"fsdp": 8}, 4, "mixtral"),
    slow({"tensor": 4}, 1, "mixtral"),
    slow({"tensor": 4}, 4, "mixtral"),
    slow({"expert": 4}, 4, "within a capacity"),
    slow({"expert": 2, "tensor": 2, "fsdp": 2}, 1, "within a capacity"),
]


FAMILIES = {
    "mixtral": {"num_experts": 4},
    "within a capacity": {"num_experts": 4, "capacity_factor": 0.75},
    "deepseek": {
        "num_experts": 8,
        "latent_attention": {"query_rank": 16, "rank": 8, "nope_dim": 4, "rope_dim": 4, "value_dim": 6},
        "routing": {"scores": "sigmoid", "groups": 4, "groups_per_token": 2, "scale": 2.5, "dense_layers": 1}
        | {"expert_size": 16, "shared_size": 16, "balance_loss": 0.1, "z_loss": 0.1, "bias_rate": 0.1},
        "prediction_layers": 1,
    },
}


def config(family: str) -> ModelConfig:
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 8}
    heads = {"num_kv_heads": 8 if family == "deepseek" else 4}
    return ModelConfig(**shape, **heads, **FAMILIES[family], max_positions=LENGTH)


def packed_rows() -> Batch:
    """Two documents in each row, of uneven lengths, then padding; some targets count half, some not at all."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    index, cut, end = np.arange(LENGTH), *generator.integers([[2], [8]], [[7], [LENGTH + 1]], (2, ROWS))[..., None]
    segment_ids = np.where(index < cut, 1, 2) * (index < end)
    positions = np.where(index < cut, index, index - cut) * (index < end)
    weights = generator.choice([0.0, 0.5, 1.0], (ROWS, LENGTH)) * (index < end)
    ids = (tokens[:, :-1], tokens[:, 1:], segment_ids.astype(np.int32), positions.astype(np.int32))
    return Batch(*ids, weights.astype(np.float32))


def mesh_of(axes: dict[str, int]):
    return make_mesh(MeshConfig(**{"fsdp": 1} | axes), jax.devices()[: math.prod(axes.values())])


@functools.cache
def initial(family: str) -> nnx.State:
    """Larger than a training run begins with, so that experts differ and no choice between them is close; much larger,
    and float32's own rounding reaches 1e-5 in the gradients."""
    return jax.tree.map(lambda x: 3 * x, nnx.state(create(config(family), ComputeConfig(), mesh_of({}), seed=0)))


def loss_and_gradients(axes: dict[str, int], micro_batches: int, family: str):
    mesh, model = mesh_of(axes), config(family)
    check_layout(model, mesh, ROWS // micro_batches, LENGTH)
    parameters = jax.device_put(initial(family), shardings(initial(family), mesh))
    structure, _ = abstract(model, ComputeConfig(dtype="float32", loss_chunk=20))
    compute_gradients = functools.partial(accumulated_gradients, structure, causal_lm, accumulation_steps=micro_batches)
    with jax.set_mesh(mesh):
        gradients, terms = jax.jit(compute_gradients)(parameters, place_batch(packed_rows(), mesh))
    return terms["loss"].mean(), {".".join(p): np.asarray(g) for p, g in nnx.to_flat_state(jax.device_get(gradients))}


@functools.cache
def truth(family: str, micro_batches: int):
    return loss_and_gradients({}, micro_batches, family)


@pytest.mark.parametrize("axes, micro_batches, family", LAYOUTS, ids=str)
def test_a_layout_gives_the_loss_and_every_gradient_of_one_device(axes, micro_batches, family):
    (loss, gradients) = loss_and_gradients(axes, micro_batches, family)
    want, wanted = truth(family, micro_batches if family == "deepseek" else 1)
    np.testing.assert_allclose(loss, want, rtol=TOLERANCE)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        difference = np.linalg.norm(gradients[name] - gradient) / np.linalg.norm(gradient)
        assert difference <= TOLERANCE, f"{name}: relative L2 {difference:.2e}"


def test_no_choice_of_an_expert_here_is_close():
    """Otherwise rounding, which differs between layouts, could send a token elsewhere and the comparison would be
    one of two models."""
    structure, _ = abstract(config("mixtral"), ComputeConfig(dtype="float32"))
    model: Decoder = nnx.merge(structure, initial("mixtral"))
    batch = packed_rows()
    margins = []

    def look(layers, x, by, segment_ids):
        block, _ = nnx.split(model.layers)
        for index in range(model.config.num_layers):
            one = nnx.merge(block, jax.tree.map(lambda leaf, at=index: leaf[at], layers))
            middle = x + one.attention(one.attention_norm(x), by, segment_ids)
            logits = np.sort(np.asarray(one.mlp.router(one.mlp_norm(middle))), axis=-1)[batch.segment_ids > 0]
            margins.append((logits[:, -2] - logits[:, -3]).min())
            x = one(x, by, segment_ids)[0]
        return x, {}

    model._run = look
    model.hidden(batch.tokens, batch.positions, batch.segment_ids)
    assert len(margins) == 2 and min(margins) > 2e-5, margins  # rounding is some 1e-6 of logits of about 1
