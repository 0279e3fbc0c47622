"""The encoder's promises: packed equals unpacked, every mesh gives one device's numbers, bfloat16 stays close."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.compute import ComputeConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models import abstract
from maxllm.models.encoder_heads import WordsHead
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.rules import RULES
from maxllm.parallel.sequence import balanced
from tests.maxllm.models.encoders import (
    BERT,
    DEBERTA_V1,
    DEBERTA_V3,
    ELECTRA,
    alone,
    changed,
    empty,
    model,
    packed,
    texts,
)

KINDS = {"bert": BERT, "deberta_v1": DEBERTA_V1, "deberta_v3": DEBERTA_V3}
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("bert", "deberta_v1")]
# Two rows of texts, each of the five alone in a row, and a row of padding, which counts for nothing.
BATCH = jax.tree.map(lambda *rows: jnp.concatenate(rows), packed(), alone(packed()), empty(1))
PACKED, ALONE = (jnp.asarray(rows, jnp.float32) for rows in ([1] * 2 + [0] * 6, [0] * 2 + [1] * 6))


def compiled(config, dtype="float32", **compute):
    """(parameters, rows that count) -> (scores, gradients) of BATCH."""
    structure, _ = abstract(config, ComputeConfig(dtype=dtype, **compute))

    def loss(parameters, rows):
        model = nnx.merge(structure, parameters)
        scores = model(BATCH.tokens, BATCH.positions, BATCH.segment_ids, BATCH.types)
        # Of squares, so that every score of a word has a gradient of its own.
        return ((scores**2).mean(axis=-1) * (BATCH.segment_ids > 0) * rows[:, None]).sum(), scores

    def run(parameters, rows):
        (_, scores), gradient = jax.value_and_grad(loss, has_aux=True)(parameters, rows)
        return scores, gradient

    return jax.jit(run)


@functools.cache
def on_one_device(kind):
    parameters, run = nnx.state(model(KINDS[kind])), compiled(KINDS[kind])
    return run(parameters, PACKED), run(parameters, ALONE)


def close(got, want):
    for (path, a), (_, b) in zip(nnx.to_flat_state(got), nnx.to_flat_state(want), strict=True):
        a, b = np.asarray(a[...]), np.asarray(b[...])
        assert np.isfinite(a).all(), path
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, abs(b).max()), err_msg=str(path))


@pytest.mark.parametrize("kind", ["deberta_v3", *SLOW])
def test_packed_texts_give_the_scores_and_gradients_that_they_give_alone(kind):
    (scores, gradient), (_, gradient_alone) = on_one_device(kind)
    for (row, at), one in zip(texts(packed()), scores[2:7], strict=True):
        np.testing.assert_allclose(scores[row, at], one[: len(at)], atol=2e-5)
    close(gradient, gradient_alone)


@pytest.mark.parametrize("kind", ["deberta_v3", *SLOW])
def test_eight_devices_give_what_one_gives(kind):
    want, d_want = on_one_device(kind)[0]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        got, d_got = compiled(KINDS[kind])(nnx.state(model(KINDS[kind], mesh=mesh)), PACKED)
    np.testing.assert_allclose(got, want, atol=2e-5)
    close(d_got, d_want)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_stays_close(kind):
    exact = on_one_device(kind)[0][0]
    rounded, gradient = compiled(KINDS[kind], "bfloat16")(nnx.state(model(KINDS[kind])), PACKED)
    p, q = jax.nn.log_softmax(exact), jax.nn.log_softmax(rounded)
    divergence = (jnp.exp(p) * (p - q)).sum(axis=-1)[np.asarray(BATCH.segment_ids) > 0]
    assert float(divergence.mean()) < 2e-3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "attention", "dots"])
def test_remat_changes_nothing(remat):
    run = compiled(DEBERTA_V3, remat=remat)
    close(run(nnx.state(model(DEBERTA_V3)), PACKED)[1], on_one_device("deberta_v3")[0][1])


@pytest.mark.slow
def test_rows_spread_over_context_give_what_one_device_gives():
    order, batch = balanced(16, 2), packed()
    want = on_one_device("bert")[0][0][:2, order]
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, context=2, tensor=2))
    inputs = [x[:, order] for x in (batch.tokens, batch.positions, batch.segment_ids, batch.types)]
    spread = model(mesh=mesh)
    with jax.set_mesh(mesh):
        got = jax.jit(spread)(*inputs)
    real = np.asarray(inputs[2]) > 0
    np.testing.assert_allclose(got[real], want[real], atol=2e-5)


def test_a_word_sees_those_after_it_but_no_other_text_and_no_padding():
    batch, hidden = packed(), jax.jit(model().hidden)
    before = hidden(batch.tokens, batch.positions, batch.segment_ids, batch.types)
    for place, seen in ((4, slice(0, 5)), (15, slice(13, 16))):  # the last of row 0's first text; padding
        changed = batch.tokens.at[0, place].set(47 - batch.tokens[0, place])
        after = hidden(changed, batch.positions, batch.segment_ids, batch.types)
        moved = np.flatnonzero(np.abs(after - before)[0].max(axis=-1) > 1e-6)
        assert moved.tolist() == list(range(16))[seen]


def test_scores_are_the_products_that_the_loss_is_given():
    head = WordsHead(32, 20, 48, activation="gelu", norm="layer", norm_eps=1e-6, std=0.2, rngs=nnx.Rngs(0))
    head.bias[...] = jnp.arange(48.0)
    hidden, table = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((0, (2, 4, 32)), (1, (48, 20))))
    inputs, kernel = head(hidden, table)
    assert inputs.shape[-1] % 8 == 0 and inputs.shape[-1] == kernel.shape[0]
    x = head.norm(nnx.gelu(head.dense(hidden), approximate=False))
    np.testing.assert_allclose(inputs @ kernel, x @ table.T + jnp.arange(48.0), atol=1e-4)


@pytest.mark.parametrize("config", [*KINDS.values(), ELECTRA], ids=[*KINDS, "electra"])
def test_every_dimension_of_every_parameter_has_a_logical_axis_in_the_table(config):
    for path, parameter in nnx.to_flat_state(abstract(config)[1]):
        axes = parameter.get_metadata("axes")
        assert len(axes) == len(parameter.shape) and set(axes) <= set(RULES), path
        split = [axis for axis in axes if RULES[axis]]
        assert len(split) == len(set(split)), f"{path}: no mesh axis can split two dimensions"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"positions": "rope"}, "learned or disentangled"),
        ({"tie_embeddings": False}, "tie_embeddings"),
        ({"positions": "disentangled", "encoder": {}}, "relative_positions 0"),
        ({"encoder": {"mask_decoder_layers": 2}}, "mask_decoder_layers"),
        ({"encoder": {"head": "replaced", "generator_factor": 0.6}}, "uneven heads"),
        ({"encoder": {"generator_factor": 0.5}}, "replaced"),
    ],
)
def test_what_is_no_encoder_is_refused_in_a_sentence(settings, reason):
    with pytest.raises(ValueError, match=reason):
        changed(**settings)
