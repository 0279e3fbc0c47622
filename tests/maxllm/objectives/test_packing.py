"""Packed texts are learned from as if each stood alone, whatever the objective."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch, EncoderDecoderBatch, empty_batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.data.corruption import FUNCTIONS
from maxllm.data.segments import runs
from maxllm.models import create
from maxllm.objectives import causal_lm
from maxllm.objectives.encoder_decoder import encoder_decoder
from maxllm.objectives.masked_lm import masked_lm
from maxllm.parallel.mesh import single_device_mesh
from tests.maxllm.data.corrupted import IDS, draws, packed

TINY = {"vocab_size": 2048, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "num_kv_heads": 2}
TINY |= {"max_positions": 256, "num_layers": 2, "tie_embeddings": True, "init_std": 0.2}
DECODER = ModelConfig(**TINY)
ENCODER = ModelConfig(
    **TINY,
    architecture="encoder",
    positions="learned",
    norm="layer",
    norm_placement="post",
    embedding_norm=True,
    encoder={"head": "next_sentence", "type_vocab_size": 2},
)
PAIR = ModelConfig(
    **TINY, architecture="encoder_decoder", positions="relative", encoder_decoder={"num_encoder_layers": 2}
)
SIZES = [[80, 15, 64], [70, 100], [9, 65, 90]]
ROWS, LENGTH = 8, 200  # as many rows as there are segments


def alone(batch: Batch) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """Row, id and fields of each segment."""
    for row in range(len(batch.tokens)):
        for at in runs(batch.segment_ids[row]):
            fields = {name: x[row, at] for name, x in batch._asdict().items() if x is not None and x.shape[1] > 1}
            yield row, int(batch.segment_ids[row, at.start]), fields


def laid(batch: Batch, places: list[tuple[int, int]] | None) -> Batch:
    """In ROWS rows of LENGTH: as it is, or each (row, segment) of `places` at the beginning of a row of its own."""
    names = [name for name, x in batch._asdict().items() if x is not None and x.shape[1] > 1]
    extra = {name: np.full((ROWS, LENGTH), -1 if name == "labels" else 0, np.int32) for name in names[5:]}
    new = empty_batch(ROWS, LENGTH)._replace(**extra)
    if places is None:
        for name in names:
            old = getattr(batch, name)
            getattr(new, name)[: old.shape[0], : old.shape[1]] = old
        return new
    for row, segment, fields in alone(batch):
        for name, values in fields.items():
            getattr(new, name)[places.index((row, segment)), : len(values)] = values
    return new


@functools.cache
def compiled(objective, config: ModelConfig):
    structure, parameters = nnx.split(create(config, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0))

    @jax.jit
    def run(batch):
        def total(parameters):
            terms = objective(nnx.merge(structure, parameters), batch)
            return terms["loss"].sum, terms

        return jax.value_and_grad(total, has_aux=True)(parameters)

    return run


CASES = {
    "fill_in_the_middle": (causal_lm, DECODER, {}),
    "prefix_lm": (causal_lm, DECODER, {}),
    "masked_lm": (masked_lm, ENCODER, {"next_sentence": True}),
    "span_corruption": (encoder_decoder, PAIR, {}),
    "denoising": (encoder_decoder, PAIR, {}),
    "ul2": (encoder_decoder, PAIR, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_packed_equals_unpacked(name):
    objective, config, settings = CASES[name]
    ids = {} if name == "prefix_lm" else {"ids": IDS}
    batch = FUNCTIONS[name][0](packed(SIZES, LENGTH), draws(len(SIZES)), **settings, **ids)
    sides = batch if isinstance(batch, EncoderDecoderBatch) else (batch,)
    places = [(row, segment) for row, segment, _ in alone(sides[0])]
    assert 3 < len(places) <= ROWS

    def of(places):
        whole = [laid(side, places) for side in sides]
        return EncoderDecoderBatch(*whole) if len(whole) > 1 else whole[0]

    run = compiled(objective, config)
    ((loss, terms), gradients), ((loss_alone, terms_alone), gradients_alone) = run(of(None)), run(of(places))
    assert float(terms["loss"].weight) == float(terms_alone["loss"].weight) > 0
    np.testing.assert_allclose(loss, loss_alone, rtol=1e-5)
    for key, term in terms.items():
        np.testing.assert_allclose(term.sum, terms_alone[key].sum, rtol=1e-5, err_msg=key)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(gradients_alone), strict=True):
        assert np.linalg.norm(a - b) <= 2e-5 * max(np.linalg.norm(b), 1e-3)
