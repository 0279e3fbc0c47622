"""What routers and further predictions add to the causal objective, term by term."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.load import resolve
from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.models import create
from maxllm.models.decoder import Decoder
from maxllm.objectives import causal_lm
from maxllm.parallel.mesh import single_device_mesh

VOCAB, LENGTH = 32, 12
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    init_std=0.2,
    prediction_layers=2,
    num_experts=4,
    experts_per_token=2,
    routing={"expert_size": 8, "scores": "sigmoid", "balance_loss": 0.5, "z_loss": 0.25, "bias_rate": 0.01},
)


@functools.cache
def model() -> Decoder:
    return create(CONFIG, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)


@functools.cache
def objective():
    return nnx.jit(functools.partial(causal_lm, prediction_weight=0.4))


def documents() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCAB, size).astype(np.int32) for size in (8, 6, 13)]


def row(*pieces: np.ndarray) -> list[np.ndarray]:
    """Documents of n + 1 tokens after one another, each giving n places; then padding."""
    fields = [np.zeros(LENGTH, np.int32) for _ in range(4)]
    at = 0
    for number, piece in enumerate(pieces, start=1):
        n = len(piece) - 1
        for field, values in zip(fields, (piece[:-1], piece[1:], number, np.arange(n)), strict=True):
            field[at : at + n] = values
        at += n
    return fields


def batch(*rows: list[np.ndarray]) -> Batch:
    tokens, targets, segment_ids, positions = (np.stack(field) for field in zip(*rows, strict=True))
    return Batch(tokens, targets, segment_ids, positions, (segment_ids > 0).astype(np.float32))


def test_the_loss_is_the_sum_of_its_terms_and_their_coefficients():
    a, b, c = documents()
    terms = objective()(model(), batch(row(a, b), row(c)))
    mean = {name: float(term.mean()) for name, term in terms.items()}
    weight = float(terms["loss"].weight)
    assert weight == 7 + 5 + 12
    further = 0.4 / 2 * sum(float(terms[f"prediction_{k}"].sum) for k in (1, 2)) / weight
    routers = 0.5 * mean["router_balance"] + 0.25 * mean["router_z"]
    assert mean["loss"] == pytest.approx(mean["cross_entropy"] + further + routers, rel=1e-5)
    assert mean["cross_entropy"] == pytest.approx(np.log(VOCAB), abs=0.5)
    assert set(terms) == {
        *("loss", "cross_entropy", "prediction_1", "prediction_2"),
        *("router_balance", "router_z", "router_violation"),
    }


def test_a_module_predicts_one_token_further_and_never_into_another_document():
    """Each document alone, module after module on ever fewer places, without shifts and masks."""
    decoder = model()
    structure, layers = nnx.split(decoder.prediction)
    sums, weights = np.zeros(2), np.zeros(2)

    @nnx.jit
    def one_document(decoder: Decoder, document: jax.Array) -> list[jax.Array]:
        tokens = document[None]
        positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
        hidden, found = decoder.hidden(tokens[:, :-1], positions[:, :-1]), []
        for k in (1, 2):
            end = tokens.shape[1] - 1 - k
            layer = nnx.merge(structure, jax.tree.map(lambda leaf, k=k: leaf[k - 1], layers))
            embedded = decoder.embed(tokens[:, k : k + end], decoder.dtype)
            hidden, _ = layer(hidden[:, :end], embedded, decoder.places(positions[:, :end]), None)
            log_probabilities = jax.nn.log_softmax(decoder.logits(hidden)[0])
            found.append(-log_probabilities[np.arange(end), tokens[0, k + 1 :]].sum())
        return found

    for document in documents()[1:]:
        sums += np.array([float(total) for total in one_document(decoder, document)])
        weights += np.array([len(document) - 2, len(document) - 3])
    a, b, c = documents()
    alone, both = objective()(decoder, batch(row(a), row())), objective()(decoder, batch(row(a, b), row(c)))
    terms = jax.tree.map(lambda x, y: x - y, both, alone)
    for k in (1, 2):
        np.testing.assert_allclose(terms[f"prediction_{k}"].sum, sums[k - 1], rtol=2e-5)
        assert terms[f"prediction_{k}"].weight == weights[k - 1]


def test_packed_and_unpacked_rows_have_the_same_terms():
    a, b, c = documents()
    packed = objective()(model(), batch(row(a, b), row(c), row()))
    unpacked = objective()(model(), batch(row(c), row(b), row(a)))
    assert packed.keys() == unpacked.keys()
    for name, term in packed.items():
        np.testing.assert_allclose(term.sum, unpacked[name].sum, rtol=2e-5)
        np.testing.assert_allclose(term.weight, unpacked[name].weight)


@pytest.mark.parametrize(
    "setting, mesh",
    [
        ("model.routing.balance_loss=0.1", "mesh.stage=2"),
        ("model.routing.bias_rate=0.1", "mesh.stage=2"),
        ("model.prediction_layers=1", "mesh.stage=2"),
        ("model.prediction_layers=1", "mesh.context=2"),
    ],
)
def test_layouts_that_do_not_see_these_terms_are_refused(setting, mesh):
    with pytest.raises(UserError, match=setting.split("=")[0]):
        resolve(TrainConfig, None, [setting, mesh, "model.num_experts=4", "train.accumulation_steps=2"])
