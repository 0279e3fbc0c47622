"""Labels of texts and tokens, ranking and embeddings: beside NumPy, packed beside alone, one device beside eight."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import LabelsConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models.encoder_heads import LabelHead, pooled
from maxllm.objectives.classification import classification, label_terms, rerank
from maxllm.objectives.contrastive import contrastive
from maxllm.parallel.mesh import make_mesh
from tests.maxllm.models.encoders import alone, changed, model, packed, texts

HIDDEN = jax.random.normal(jax.random.key(0), (2, 16, 32))
EMBEDDING = changed(num_layers=1, labels={"kind": "embedding", "pooling": "mean", "hidden": "none"})


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
def test_a_texts_label_is_read_from_its_own_states_wherever_it_lies(pooling):
    batch = packed()
    found = np.asarray(jax.jit(functools.partial(pooled, pooling=pooling))(HIDDEN, batch.segment_ids))
    for row, at in texts(batch):
        own = np.asarray(HIDDEN)[row, at]
        want = {"first": own[0], "last": own[-1], "mean": own.mean(axis=0)}[pooling]
        np.testing.assert_allclose(found[row, at[0]], want, atol=1e-6)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_classes_are_learned_where_there_are_labels(kind):
    batch = packed()
    labels = jnp.where(batch.positions == 1, -1, jnp.arange(32).reshape(2, 16) % 3)
    head = LabelHead(32, LabelsConfig(kind=kind, count=3), std=0.3, rngs=nnx.Rngs(0))
    logits = np.asarray(head(HIDDEN, batch.segment_ids), np.float64)
    terms = label_terms(jnp.asarray(logits), batch._replace(labels=labels), per_text=kind == "sequence")
    losses, right = [], 0
    for row, at in texts(batch):
        for place in at if kind == "token" else at[:1]:
            if labels[row, place] < 0:
                continue
            shares = np.exp(logits[row, place]) / np.exp(logits[row, place]).sum()
            losses.append(-np.log(shares[labels[row, place]]))
            right += shares.argmax() == labels[row, place]
    assert len(losses) == terms["loss"].weight
    np.testing.assert_allclose(terms["loss"].sum, sum(losses), rtol=1e-5)
    assert terms["accuracy"].sum == right


class Scores:
    """A model whose scores are given."""

    def __init__(self, scores, config=None):
        self.scores, self.config = scores, config

    def hidden(self, *inputs):
        return self.scores

    def label_head(self, hidden, segment_ids):
        return hidden


def test_ranking_is_logistic():
    batch = packed()
    scores = np.random.default_rng(1).normal(size=(2, 16, 1)).astype(np.float32)
    by_one = rerank(Scores(jnp.asarray(scores)), batch)["loss"]
    signs = [(scores[row, at[0], 0], int(batch.labels[row, at[0]])) for row, at in texts(batch)]
    want = sum(np.log1p(np.exp(-s if label else s)) for s, label in signs)
    np.testing.assert_allclose((by_one.sum, by_one.weight), (want, 5), rtol=1e-5)


def test_a_query_is_told_from_all_other_pairs_passages():
    batch = packed(4)
    vectors = np.random.default_rng(1).normal(size=(4, 16, 8)).astype(np.float32)
    terms = contrastive(Scores(jnp.asarray(vectors)), batch, texts=4, temperature=0.5)
    firsts = [0, 5], [0, 7], [0, 5], [0, 7]
    queries = np.stack([vectors[row, first] for row, (first, _) in enumerate(firsts)])
    passages = np.stack([vectors[row, second] for row, (_, second) in enumerate(firsts)])
    scores = queries @ passages.T / 0.5
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(terms["loss"].sum, -np.trace(logs), rtol=1e-5)
    assert terms["loss"].weight == 4 and terms["accuracy"].sum == (scores.argmax(axis=1) == np.arange(4)).sum()


@pytest.mark.slow
def test_negatives_come_from_all_eight_devices():
    batch = packed(8)

    def gradient(mesh=None):
        structure, parameters = nnx.split(model(EMBEDDING, mesh=mesh))
        loss = lambda parameters: contrastive(nnx.merge(structure, parameters), batch)["loss"].mean()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(parameters)

    want, d_want = gradient()
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        got, d_got = gradient(mesh)
    np.testing.assert_allclose(got, want, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3 * max(1e-3, abs(b).max())), d_got, d_want)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sequence", "token", "rerank"])
def test_packed_texts_are_labelled_as_they_are_alone(kind):
    labelled, batch = model(changed(labels={"kind": kind, "pooling": "mean"})), packed()
    objective = rerank if kind == "rerank" else classification
    whole, parts = (jax.jit(objective)(labelled, b) for b in (batch, alone(batch)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), whole, parts)


DECODER = {"hidden_size": 32, "vocab_size": 48, "num_layers": 1, "num_heads": 4, "num_kv_heads": 4}


def test_a_decoder_reads_no_labels_from_a_texts_beginning():
    with pytest.raises(ValueError, match="labels.pooling first"):
        ModelConfig(**DECODER, labels=LabelsConfig())


@pytest.mark.slow
def test_a_decoder_reads_labels_from_a_texts_end():
    config = ModelConfig(**DECODER, labels=LabelsConfig(count=3, pooling="last", hidden="none"))
    decoder, batch = model(config), packed()
    assert not hasattr(decoder, "head")
    whole, parts = (jax.jit(classification)(decoder, b._replace(types=None)) for b in (batch, alone(batch)))
    assert whole["loss"].weight == 5
    np.testing.assert_allclose(whole["loss"].sum, parts["loss"].sum, rtol=1e-5)
