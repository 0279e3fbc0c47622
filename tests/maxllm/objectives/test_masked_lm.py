"""BERT's loss is its formula: the mean over hidden words, and the mean over pairs."""

from __future__ import annotations

import jax
import numpy as np

from maxllm.config.compute import ComputeConfig
from maxllm.data.masked import mask_tokens
from maxllm.models import create
from maxllm.objectives.masked_lm import masked_lm
from maxllm.parallel.mesh import single_device_mesh
from tests.maxllm.data.corrupted import IDS, draws, packed
from tests.maxllm.objectives.test_packing import ENCODER


def test_it_is_the_mean_of_hidden_words_and_the_mean_of_pairs():
    batch = mask_tokens(packed([[20, 15], [5, 30]], 36), draws(2), ids=IDS, rate=0.3, next_sentence=True)
    model = create(ENCODER, ComputeConfig(dtype="float32"), single_device_mesh(), seed=0)

    @jax.jit
    def both(batch):
        hidden = model.hidden(batch.tokens, batch.positions, batch.segment_ids, batch.types)
        return masked_lm(model, batch), model.logits(hidden), model.labels(hidden, batch.segment_ids)

    terms, words, pairs = both(batch)
    words, pairs = (np.asarray(jax.nn.log_softmax(scores), np.float64) for scores in (words, pairs))
    hidden = [-words[at][batch.targets[at]] for at in zip(*np.nonzero(batch.weights), strict=True)]
    told = [-pairs[at][batch.labels[at]] for at in zip(*np.nonzero(batch.labels >= 0), strict=True)]
    assert len(told) == 3 and len(hidden) > 10  # one text is too short to be a pair
    np.testing.assert_allclose(terms["loss"].mean(), np.mean(hidden) + np.mean(told), rtol=1e-5)
    np.testing.assert_allclose(terms["masked_lm"].mean(), np.mean(hidden), rtol=1e-5)
    np.testing.assert_allclose(terms["next_sentence"].mean(), np.mean(told), rtol=1e-5)
