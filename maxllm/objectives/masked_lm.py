"""Masked language modelling, and whether a second sentence follows the first (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import jax

from maxllm.batch import Batch
from maxllm.kernels.cross_entropy import cross_entropy
from maxllm.models.encoder import Encoder
from maxllm.objectives.classification import label_terms
from maxllm.objectives.weighted import Weighted


def masked_lm(model: Encoder, batch: Batch, rngs: object = None, *, loss_chunk: int = 0) -> dict[str, Weighted]:
    """Cross-entropy of the hidden words in nats, summed with `batch.weights`. `loss_chunk`: see `cross_entropy`.

    Where the batch has labels (of each pair at its first token, -1 for none), "loss" is the sum of two means, as in
    BERT: "masked_lm" over the hidden words, "next_sentence" over the pairs. That sum's scope is the micro-batch.
    """
    hidden = model.hidden(batch.tokens, batch.positions, batch.segment_ids, batch.types)
    words = words_term(model, hidden, batch, loss_chunk)
    if batch.labels is None:
        return {"loss": words}
    pairs = label_terms(model.labels(hidden, batch.segment_ids), batch, per_text=True)
    terms = {"masked_lm": words, "next_sentence": pairs["loss"], "next_sentence_accuracy": pairs["accuracy"]}
    return {"loss": added((words, 1.0), (pairs["loss"], 1.0)), **terms}


def words_term(model: Encoder, hidden: jax.Array, batch: Batch, loss_chunk: int) -> Weighted:
    """Cross-entropy of `batch.targets` where they have weight."""
    inputs, kernel = model.scored(hidden)
    total = cross_entropy(inputs, kernel, batch.targets, batch.weights, loss_chunk)
    return Weighted(total, batch.weights.sum())


def added(*terms: tuple[Weighted, float]) -> Weighted:
    """The sum of the terms' means, each times its coefficient, with the first one's weight."""
    weight = terms[0][0].weight
    return Weighted(sum(coefficient * term.mean() * weight for term, coefficient in terms), weight)
