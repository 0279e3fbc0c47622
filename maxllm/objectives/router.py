"""What routers add to a loss."""

from __future__ import annotations

import jax

from maxllm.config.model import ModelConfig
from maxllm.models.router import BALANCE, BIAS, Z
from maxllm.objectives.weighted import Weighted


def router_terms(
    losses: dict[str, jax.Array], config: ModelConfig, weight: jax.Array
) -> tuple[jax.Array | float, dict[str, Weighted]]:
    """What is added to the sum of the term "loss", and the terms to report, each a mean over the layers with experts.

    `losses`: sums over those layers, of one micro-batch whose targets weigh `weight`. These terms are not additive over
    tokens (a load is a load of so many tokens): their scope is the micro-batch, and the micro-batches' values are
    averaged by their weights. transformers' `load_balancing_loss_func` multiplies loads and probabilities that are
    means over all layers at once; ours is Fedus et al.'s for each layer, so that layers cannot make up for one another.
    The two are one for one layer.
    """
    routing = config.routing
    layers = config.num_layers - config.leading_layers + config.prediction_layers
    terms = {name: Weighted(loss / layers * weight, weight) for name, loss in losses.items() if name != BIAS}
    coefficients = {BALANCE: routing.balance_loss, Z: routing.z_loss}
    added = sum(coefficients[name] * terms[name].sum for name in coefficients if name in terms)
    # Zero, and its gradient an uneven load's, to be seen by the optimizer as it is: maxllm/optim/router_bias.py.
    return added + losses.get(BIAS, 0.0), terms
