"""Replaced-token detection (ELECTRA, Clark et al. 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maxllm.batch import Batch
from maxllm.kernels.cross_entropy import cross_entropy
from maxllm.models.electra import Electra
from maxllm.objectives.weighted import Weighted
from maxllm.parallel.sequence import devices_along

DETECTION_WEIGHT = 50.0  # section 3.1
_LOGITS = 2**22  # that exist at once when replacements are drawn; nothing of them is kept


def replaced_token(
    model: Electra,
    batch: Batch,
    rngs: object = None,
    *,
    loss_chunk: int = 0,
    detection_weight: float = DETECTION_WEIGHT,
) -> dict[str, Weighted]:
    """The generator's cross-entropy of masked words + `detection_weight` · the discriminator's of which tokens of the
    text are not the original ones, each a mean, in nats (section 2).

    Masked are the tokens whose weight is not 0, and `batch.targets` has what stood there. What the generator puts
    there is drawn from its softmax at temperature 1, by noise that `batch.noise` and the place in the row decide; no
    gradient goes through it. A token drawn as it was counts as original. The sum of the two means is of a micro-batch:
    their weights, masked words and all words, differ. `detected`: share of tokens told right.
    """
    generator, discriminator = model.generator, model.discriminator
    rest = (batch.positions, batch.segment_ids, batch.types)
    inputs, kernel = generator.scored(generator.hidden(batch.tokens, *rest))
    total = cross_entropy(inputs, kernel, batch.targets, batch.weights, loss_chunk)
    words = Weighted(total, batch.weights.sum())
    masked = batch.weights > 0
    drawn = draw(*jax.lax.stop_gradient((inputs, kernel)), batch.noise)
    original = jnp.where(masked, batch.targets, batch.tokens)
    tokens = jnp.where(masked, drawn, batch.tokens)
    score = discriminator.labels(discriminator.hidden(tokens, *rest))[..., 0]
    real = (batch.segment_ids > 0).astype(jnp.float32)
    replaced = tokens != original
    losses = jax.nn.softplus(score) - jnp.where(replaced, score, 0.0)
    detection = Weighted((losses * real).sum(), real.sum())
    return {
        "loss": words._replace(sum=words.sum + detection_weight * detection.mean() * words.weight),
        "masked_lm": words,
        "detection": detection,
        "detected": Weighted((((score > 0) == replaced) * real).sum(), real.sum()),
    }


def draw(inputs: jax.Array, kernel: jax.Array, noise: jax.Array) -> jax.Array:
    """A word for each place, int32 `[batch, length]`, from softmax(inputs · kernel): argmax(scores + Gumbel noise).

    `noise` int32 `[batch, 1]`: a seed of each row. Some places' scores at a time.
    """
    rows, length = inputs.shape[:2]
    devices = devices_along((rows, length))
    kernel = kernel.astype(inputs.dtype)

    def by_place(x: jax.Array) -> jax.Array:
        """`[length / devices, batch, devices, ...]`: of each row, one place on every device that shares it."""
        return jnp.moveaxis(x.reshape(rows, devices, length // devices, *x.shape[2:]), 2, 0)

    def at(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, places = one
        scores = jnp.matmul(x, kernel, preferred_element_type=jnp.float32)
        keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(jax.vmap(jax.random.key)(noise[:, 0]), places)
        gumbel = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[-1:])))(keys)
        return (scores + gumbel).argmax(axis=-1).astype(jnp.int32)

    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    size = max(1, _LOGITS // (kernel.shape[1] * rows * devices))
    drawn = jax.lax.map(at, (by_place(inputs), by_place(places)), batch_size=size)
    return jnp.moveaxis(drawn, 0, 2).reshape(rows, length)
