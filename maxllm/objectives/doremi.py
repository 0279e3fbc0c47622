"""DoReMi: domain weights found by minimax (Xie et al. 2023, arXiv 2305.10429, Algorithm 1).

A small proxy is trained on rows drawn uniformly from all domains while weights alpha look for the domains on which it
has most left to learn, measured by a reference model's loss. At step t, over the whole batch:

    lambda[i] = mean over the tokens of domain i of max(loss - reference loss, 0)
    alpha    <- (1 - c) normalised(alpha * exp(eta * lambda)) + c / domains
    update the proxy on sum over i of alpha[i] * (mean loss over the tokens of domain i)

The result is the mean of alpha over all steps. alpha is the new one when the proxy is updated, as in the paper, however
many micro-batches the batch is cut into: `excess` goes over all of them first, and what follows is next-token
prediction on a batch whose weights are alpha[i] / (tokens of domain i). (The authors' code uses old weights for all
micro-batches but the last.) A domain without a token in the batch keeps its last lambda, as in their code.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from maxllm.batch import Batch
from maxllm.kernels.cross_entropy import token_cross_entropy
from maxllm.models.decoder import Decoder
from maxllm.objectives.weighted import Weighted
from maxllm.parallel.sequence import devices_along

_LOGITS = 2**22  # that exist at once; without gradients a small chunk costs nothing


class DomainWeights(NamedTuple):
    """Float32 `[domains]` each, in the order of the sources' names."""

    now: jax.Array  # alpha; sums to 1
    average: jax.Array  # of alpha over the steps made; what DoReMi returns
    excess: jax.Array  # lambda, nats per token


def initial(domains: int) -> DomainWeights:
    """Uniform weights, before the first step."""
    uniform = jnp.full(domains, 1 / domains, jnp.float32)
    return DomainWeights(uniform, jnp.zeros_like(uniform), jnp.zeros_like(uniform))


def excess(proxy: Decoder, reference: Decoder, batch: Batch, domains: int) -> Weighted:
    """Sums of max(loss - reference loss, 0) over the tokens of each domain, and their weights: `[domains]`, float32."""
    over = jnp.maximum(token_losses(proxy, batch) - token_losses(reference, batch), 0.0) * batch.weights
    belongs = (batch.domains == jnp.arange(domains)).astype(jnp.float32)  # [batch, domains]
    # Not a matrix product: TPUs would round its factors to bfloat16.
    return Weighted(*((belongs * rows.sum(axis=1, keepdims=True)).sum(axis=0) for rows in (over, batch.weights)))


def token_losses(model: Decoder, batch: Batch) -> jax.Array:
    """Cross-entropy of each target in nats: float32 `[batch, length]`, some positions' logits at a time."""
    hidden = model.hidden(batch.tokens, batch.positions, batch.segment_ids)
    head = model.head_kernel()
    rows, length = batch.targets.shape
    devices = devices_along(batch.targets.shape)

    def by_position(x: jax.Array) -> jax.Array:
        """`[length / devices, batch, devices, ...]`: of each position, one on every device that shares a row."""
        return jnp.moveaxis(x.reshape(rows, devices, length // devices, *x.shape[2:]), 2, 0)

    losses = jax.lax.map(
        lambda at: token_cross_entropy(at[0], head, at[1], model.config.logits_softcap),
        (by_position(hidden), by_position(batch.targets)),
        batch_size=max(1, _LOGITS // (head.shape[1] * rows * devices)),
    )
    return jnp.moveaxis(losses, 0, 2).reshape(rows, length)


def update(
    weights: DomainWeights, found: Weighted, step: jax.Array, *, step_size: float, smoothing: float
) -> DomainWeights:
    """One step of the ascent. `found`: of `excess`, over the whole batch; `step`: updates made before this one."""
    present = found.weight > 0
    over = jnp.where(present, found.sum / jnp.where(present, found.weight, 1.0), weights.excess)
    ascended = jax.nn.softmax(jnp.log(weights.now) + step_size * over)
    now = (1 - smoothing) * ascended + smoothing / len(over)
    return DomainWeights(now, weights.average + (now - weights.average) / (step + 1), over)


def reweighted(batch: Batch, weights: DomainWeights, found: Weighted) -> Batch:
    """`batch` with weights that make the sum of its losses the sum of alpha[i] * mean loss of domain i."""
    each = jnp.where(found.weight > 0, weights.now / jnp.where(found.weight > 0, found.weight, 1.0), 0.0)
    return batch._replace(weights=batch.weights * each[batch.domains])
