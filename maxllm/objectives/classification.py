"""Labels of texts and of tokens, and scores of pairs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from maxllm.batch import Batch
from maxllm.objectives.weighted import Weighted


def classification(model: Any, batch: Batch, rngs: object = None) -> dict[str, Weighted]:
    """Cross-entropy in nats of `batch.labels`: of each token, or of each text at its first token, by
    `model.labels.kind`; -1 and below is no label. `accuracy`: share of labels that score best.

    An encoder, or a decoder that reads labels from a text's last token (Radford et al. 2018).
    """
    return label_terms(labelled(model, batch), batch, per_text=model.config.labels.kind != "token")


def rerank(model: Any, batch: Batch, rngs: object = None) -> dict[str, Weighted]:
    """A cross-encoder's score s of each text, which holds a query and a passage (Nogueira and Cho 2019):
    -log sigmoid(s) of a text labelled 1, -log sigmoid(-s) of one labelled 0.
    """
    scores = labelled(model, batch)[..., 0]
    counts = (begins(batch) & (batch.labels >= 0)).astype(jnp.float32)
    loss = jax.nn.softplus(scores) - scores * batch.labels
    right = (scores > 0) == (batch.labels == 1)
    weight = counts.sum()
    return {"loss": Weighted((loss * counts).sum(), weight), "accuracy": Weighted((right * counts).sum(), weight)}


def labelled(model: Any, batch: Batch) -> jax.Array:
    """What the model's head for labels makes of a batch: float32 `[batch, length, count]`."""
    inputs = (batch.tokens, batch.positions, batch.segment_ids)
    types = () if batch.types is None else (batch.types,)
    return model.label_head(model.hidden(*inputs, *types), batch.segment_ids)


def label_terms(logits: jax.Array, batch: Batch, *, per_text: bool) -> dict[str, Weighted]:
    """Of float32 `logits` `[batch, length, classes]` and `batch.labels`."""
    counts = (batch.segment_ids > 0) & (batch.labels >= 0)
    if per_text:
        counts &= batch.positions == 0
    targets = jnp.maximum(batch.labels, 0)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - chosen, 0.0)
    right = jnp.where(counts, logits.argmax(axis=-1) == targets, False)
    weight = counts.sum().astype(jnp.float32)
    return {"loss": Weighted(loss.sum(), weight), "accuracy": Weighted(right.sum().astype(jnp.float32), weight)}


def begins(batch: Batch) -> jax.Array:
    """Whether a token is a text's first."""
    return (batch.segment_ids > 0) & (batch.positions == 0)
