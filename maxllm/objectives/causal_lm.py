"""Next-token prediction."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maxllm.batch import Batch
from maxllm.kernels.cross_entropy import cross_entropy
from maxllm.models.decoder import Decoder
from maxllm.models.prediction import further, shifted
from maxllm.objectives.router import router_terms
from maxllm.objectives.weighted import Weighted


def causal_lm(
    model: Decoder, batch: Batch, rngs: object = None, *, loss_chunk: int = 0, prediction_weight: float = 0.3
) -> dict[str, Weighted]:
    """Cross-entropy of each target in nats, summed with `batch.weights`. `loss_chunk`: see `cross_entropy`.

    With experts and coefficients for their routers (RoutingConfig), "loss" has those terms too, and each is reported;
    their scope is the micro-batch (see `router_terms`). With prediction layers it has `prediction_weight` times the
    mean of their cross-entropies (DeepSeek-AI 2024, equations 24 and 25): additive over tokens. What "loss" is without
    all that is then reported as "cross_entropy". A batch with prefixes makes this prefix language modelling.
    """
    told = () if batch.prefix is None else (batch.prefix,)
    hidden, losses = model.hidden_and_losses(batch.tokens, batch.positions, batch.segment_ids, *told)
    cap = model.config.logits_softcap
    total = cross_entropy(hidden, model.head_kernel(), batch.targets, batch.weights, loss_chunk, cap)
    plain = Weighted(total, batch.weights.sum())
    terms = {}
    if count := model.config.prediction_layers:
        terms, of_modules = _predictions(model, hidden, batch, loss_chunk)
        losses = jax.tree.map(jnp.add, losses, of_modules)
        total = total + prediction_weight / count * sum(term.sum for term in terms.values())
    if losses:
        added, of_routers = router_terms(losses, model.config, plain.weight)
        total, terms = total + added, terms | of_routers
    return {"loss": plain._replace(sum=total)} | ({"cross_entropy": plain} | terms if terms else {})


def _predictions(
    model: Decoder, hidden: jax.Array, batch: Batch, loss_chunk: int
) -> tuple[dict[str, Weighted], dict[str, jax.Array]]:
    """Each module's cross-entropy, over the targets that are in the same document, and their routers' losses' sum."""
    terms, losses = {}, []
    modules = further(model, hidden, batch.tokens, batch.positions, batch.segment_ids)
    for number, (hidden, own) in enumerate(modules, start=1):
        same = shifted(batch.segment_ids, number) == batch.segment_ids
        weights = shifted(batch.weights, number) * same
        targets = shifted(batch.targets, number)
        total = cross_entropy(hidden, model.head_kernel(), targets, weights, loss_chunk, model.config.logits_softcap)
        terms[f"prediction_{number}"] = Weighted(total, weights.sum())
        losses.append(own)
    return terms, jax.tree.map(lambda *each: sum(each), *losses)
