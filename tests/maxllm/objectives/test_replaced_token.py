"""Replaced-token detection: its formula, where its gradients go, and that its draws are the generator's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.models import abstract
from maxllm.models.electra import SHARED
from maxllm.objectives.replaced_token import draw, replaced_token
from tests.maxllm.models.encoders import BERT, ELECTRA, model, packed


@pytest.fixture(scope="module")
def electra():
    return model(ELECTRA)


@pytest.fixture(scope="module")
def gradients(electra):
    """{weight of detection: (terms, gradients)}, of one compiled function."""
    structure, parameters = nnx.split(electra)

    def of(parameters, weight):
        terms = replaced_token(nnx.merge(structure, parameters), packed(), detection_weight=weight)
        return terms["loss"].mean(), terms

    run = jax.jit(jax.grad(of, has_aux=True))
    return {weight: run(parameters, weight)[::-1] for weight in (0.0, 50.0)}


def test_the_generator_reads_the_discriminators_tables(electra):
    for name in SHARED:
        assert getattr(electra.generator, name) is getattr(electra.discriminator, name)
    names = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(abstract(ELECTRA)[1])]
    assert len(names) == len(set(names)) and not any(name.startswith("generator.embed.") for name in names)


def test_published_generators_have_their_published_widths():
    """Clark et al. 2020, table 6: hidden size, feed-forward size and heads as multiples of the discriminator's."""
    for hidden, heads, factor, want in (
        (256, 4, 0.25, (64, 1)),
        (768, 12, 1 / 3, (256, 4)),
        (1024, 16, 0.25, (256, 4)),
    ):
        sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_heads": heads, "num_kv_heads": heads}
        encoder = {"head": "replaced", "generator_factor": factor}
        found = ModelConfig(**BERT.model_dump() | sizes | {"encoder": encoder}).generator
        assert (found.hidden_size, found.num_heads, found.intermediate_size) == (*want, 4 * want[0])
        assert found.encoder.embedding_size == hidden


def test_the_loss_is_the_papers_sum_of_two_means(electra, gradients):
    terms, batch = gradients[50.0][0], packed()
    generator, discriminator = electra.generator, electra.discriminator
    inputs = (batch.positions, batch.segment_ids, batch.types)
    scores = np.asarray(jax.jit(generator)(batch.tokens, *inputs), np.float64)
    logs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    masked = np.asarray(batch.weights) > 0
    words = -np.take_along_axis(logs, np.asarray(batch.targets)[..., None], -1)[..., 0][masked].mean()
    noise = [jax.vmap(lambda i, seed=seed: jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), i), (48,)))
             for seed in batch.noise[:, 0]]  # fmt: skip
    drawn = (scores + np.stack([one(jnp.arange(16)) for one in noise])).argmax(axis=-1)
    tokens = np.where(masked, drawn, batch.tokens)
    replaced = masked & (drawn != np.asarray(batch.targets))
    assert replaced.any()
    seen = jax.jit(lambda tokens: discriminator.labels(discriminator.hidden(tokens, *inputs)))(jnp.asarray(tokens))
    share = 1 / (1 + np.exp(-np.asarray(seen, np.float64)[..., 0]))
    real = np.asarray(batch.segment_ids) > 0
    detection = -np.log(np.where(replaced, share, 1 - share))[real].mean()
    np.testing.assert_allclose(terms["masked_lm"].mean(), words, rtol=1e-5)
    np.testing.assert_allclose(terms["detection"].mean(), detection, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"].mean(), words + 50 * detection, rtol=1e-5)


def test_no_gradient_goes_through_the_draws(gradients):
    """Detection moves the discriminator and the tables that both read, and nothing of the generator's own."""
    without, both = (dict(nnx.to_flat_state(gradients[weight][1])) for weight in (0.0, 50.0))
    for path, gradient in both.items():
        assert np.isfinite(gradient[...]).all(), path
        same = np.array_equal(gradient[...], without[path][...])
        assert same == (path[0] == "generator"), path


def test_draws_follow_the_generators_probabilities_and_the_rows_seeds():
    rows = 200
    inputs = jnp.ones((rows, 16, 8)) / 8
    kernel = jnp.log(jnp.asarray([[0.5, 0.25, 0.15, 0.1, 1e-9]])) * jnp.ones((8, 1))
    noise = jnp.arange(rows)[:, None]
    drawn = np.asarray(draw(inputs, kernel, noise))
    shares = np.bincount(drawn.ravel(), minlength=5) / drawn.size
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.15, 0.1, 0], atol=4 * 0.5 / np.sqrt(drawn.size))
    backwards = np.asarray(draw(inputs, kernel, noise[::-1]))
    np.testing.assert_array_equal(drawn[::-1], backwards)
