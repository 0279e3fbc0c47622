"""Multi-token prediction (DeepSeek-AI 2024, section 2.2): small modules after the last layer, each a token further."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.models.attention import Places
from maxllm.models.block import Block, Losses
from maxllm.models.linear import Linear
from maxllm.models.norm import make_norm
from maxllm.models.remat import rematerialised
from maxllm.parallel.rules import constrain


class PredictionLayer(nnx.Module):
    """norm(block(project · [norm(embedding of the next token); norm(x)])): equations 21 and 22 of the paper, the
    embedding first, as in the published checkpoints. Embedding and head are the model's own.
    """

    def __init__(self, config: ModelConfig, *, attention: str, context: str, rngs: nnx.Rngs):
        def norm() -> nnx.Module:
            return make_norm(config.norm, config.hidden_size, eps=config.norm_eps)

        self.embedding_norm, self.hidden_norm, self.norm = norm(), norm(), norm()
        size = config.hidden_size
        self.project = Linear({"embed": 2 * size}, {None: size}, std=config.init_std, rngs=rngs)
        self.block = Block(config, dense=config.num_experts == 0, attention=attention, context=context, rngs=rngs)

    def __call__(
        self, x: jax.Array, embedded: jax.Array, places: Places, segment_ids: jax.Array | None
    ) -> tuple[jax.Array, Losses]:
        both = jnp.concatenate([self.embedding_norm(embedded), self.hidden_norm(x)], axis=-1)
        x = constrain(self.project(both), "batch", "sequence", None)
        x, losses = self.block(x, places, segment_ids)
        return self.norm(x), losses


def further(
    model: Any, hidden: jax.Array, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array
) -> Iterator[tuple[jax.Array, Losses]]:
    """What the head sees of each of a Decoder's modules, `[batch, length, embed]`, and its router's losses.

    `hidden`: what it sees of the model itself, after the final norm (as the published checkpoints are read). Module k
    makes, of the place of token i and of token i + k, a prediction of token i + k + 1. Where i + k is in another
    document, i is padding to the module: no place sees it, its router does not count it, its output means nothing.
    """
    structure, layers = nnx.split(model.prediction)
    places = model.places(positions)
    for number in range(model.config.prediction_layers):
        tokens = shifted(tokens, 1)
        ids = jnp.where(shifted(segment_ids, number + 1) == segment_ids, segment_ids, 0)
        embedded = model.embedded(tokens, positions)

        def layer(
            x: jax.Array, parameters: nnx.State, embedded: jax.Array = embedded, ids: jax.Array = ids
        ) -> tuple[jax.Array, Losses]:
            return nnx.merge(structure, parameters)(x, embedded, places, ids)

        one = jax.tree.map(lambda leaf, at=number: leaf[at : at + 1], layers)
        # A scan of one, so that what is computed again is not found to be there already.
        hidden, losses = jax.lax.scan(rematerialised(layer, *model.remat, hidden, one), hidden, one)
        yield hidden, jax.tree.map(lambda of_layers: of_layers.sum(), losses)


def shifted(rows: jax.Array, by: int) -> jax.Array:
    """`rows` `[batch, length]` moved to the left, zeros coming in."""
    return jnp.pad(rows[:, by:], ((0, 0), (0, by)))
