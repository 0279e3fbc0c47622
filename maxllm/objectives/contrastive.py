"""Embeddings of texts that belong together, close to each other and far from all others."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from maxllm.batch import Batch
from maxllm.objectives.classification import begins, labelled
from maxllm.objectives.weighted import Weighted


def contrastive(
    model: Any, batch: Batch, rngs: object = None, *, texts: int = 2, temperature: float = 0.05
) -> dict[str, Weighted]:
    """InfoNCE with in-batch negatives (van den Oord et al. 2018; Karpukhin et al. 2020; temperature as in SimCSE):

        -log( exp(q_i · p_i / temperature) / Σ_j exp(q_i · p_j / temperature) )

    over unit vectors. Segments 2k-1 and 2k of a row, of up to `texts` (even), are a query and its passage. The passages
    j are those of the whole micro-batch on all devices of the mesh, which is this loss's scope: more micro-batches, or
    gradients of copies apart (mesh.compress), are fewer negatives. `accuracy`: share of queries whose own is nearest.
    """
    vectors, there = of_texts(labelled(model, batch), batch, texts)
    queries, passages = (vectors[:, half::2].reshape(-1, vectors.shape[-1]) for half in (0, 1))
    pairs = (there[:, 0::2] & there[:, 1::2]).reshape(-1)
    # Float32 with all its bits: what is near 1 / temperature differs in the last ones.
    scores = jnp.matmul(queries, passages.T, precision=jax.lax.Precision.HIGHEST) / temperature
    scores = jnp.where(pairs[None], scores, -jnp.inf)
    own = jnp.diagonal(scores)
    loss = jnp.where(pairs, jax.nn.logsumexp(jnp.where(pairs[:, None], scores, 0.0), axis=-1) - own, 0.0)
    right = pairs & (scores.argmax(axis=-1) == jnp.arange(len(pairs)))
    weight = pairs.sum().astype(jnp.float32)
    return {"loss": Weighted(loss.sum(), weight), "accuracy": Weighted(right.sum().astype(jnp.float32), weight)}


def of_texts(x: jax.Array, batch: Batch, texts: int) -> tuple[jax.Array, jax.Array]:
    """What `x` `[batch, length, ...]` has at the first token of segments 1 to `texts` of each row: `[batch, texts,
    ...]`, and whether there is such a segment."""
    is_first = begins(batch)[:, None] & (batch.segment_ids[:, None] == jnp.arange(1, texts + 1)[:, None])
    where = is_first.argmax(axis=-1)  # [batch, texts]
    picked = jnp.take_along_axis(x, where.reshape(*where.shape, *(1,) * (x.ndim - 2)), axis=1)
    return picked, is_first.any(axis=-1)
