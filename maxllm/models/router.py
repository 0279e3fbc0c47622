"""Which experts a token goes to, with what weights, and what keeps them evenly loaded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from maxllm.config.model_parts import RoutingConfig

# Losses of a layer's router, float32 scalars. What multiplies them is the objective's business.
BALANCE, Z, BIAS, VIOLATION = "router_balance", "router_z", "router_bias", "router_violation"


class RouterBias(nnx.Param):
    """What is added to an expert's score when experts are chosen, and not to its weight (Wang et al. 2024).

    A class of its own, because no gradient of the loss reaches it: maxllm/optim moves it by the sign of its load.
    """


class Router(nnx.Module):
    """How well each expert suits a token, float32 `[batch, length, experts]`.

    In float32, with all its bits: a logit's rounding decides where a token goes.
    """

    def __init__(self, hidden_size: int, num_experts: int, *, bias: bool = False, std: float, rngs: nnx.Rngs):
        # Whole on every device, as a norm is: too small to be worth gathering.
        kernel = std * jax.random.normal(rngs.params(), (hidden_size, num_experts))
        self.kernel = nnx.Param(kernel, axes=("norm", "norm"))
        if bias:
            self.bias = RouterBias(jnp.zeros(num_experts), axes=("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.matmul(x.astype(jnp.float32), self.kernel[...], precision=jax.lax.Precision.HIGHEST)


def choose(
    logits: jax.Array, experts_per_token: int, routing: RoutingConfig, bias: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Each token's weights, float32, and experts, int32: `[batch, length, experts_per_token]` each.

    Scores are a softmax over all experts (Mixtral, where the weights then add up to 1: the softmax over the chosen
    logits; Qwen's early mixtures leave them as they are) or each expert's sigmoid (DeepSeek-V3, section 2.1.2). The
    largest scores + `bias` are chosen; of several groups of experts, within the `groups_per_token` whose two best
    experts add up to most. The weights are the scores themselves.
    """
    scores = jax.nn.sigmoid(logits) if routing.scores == "sigmoid" else jax.nn.softmax(logits, axis=-1)
    ranks = jax.lax.stop_gradient(scores if bias is None else scores + bias)
    if routing.groups > 1:
        grouped = ranks.reshape(*ranks.shape[:-1], routing.groups, -1)
        worth = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0].sum(axis=-1)
        best = jax.lax.top_k(worth, routing.groups_per_token)[1]
        looked_at = (best[..., None] == jnp.arange(routing.groups)).any(axis=-2)
        ranks = jnp.where(looked_at[..., None], grouped, -jnp.inf).reshape(ranks.shape)
    chosen = jax.lax.top_k(ranks, experts_per_token)[1]
    weights = jnp.take_along_axis(scores, chosen, axis=-1)
    if routing.normalise:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)  # sigmoids may all be 0
    return weights * routing.scale, chosen


def router_losses(
    logits: jax.Array, chosen: jax.Array, padding: jax.Array, routing: RoutingConfig, bias: jax.Array | None = None
) -> dict[str, jax.Array]:
    """A layer's losses over the tokens that are not `padding` (bool `[batch, length]`), those that `routing` asks for.

    BALANCE: experts · Σ f_i P_i (Fedus et al. 2021, equations 4 to 6): f_i the tokens that chose expert i and P_i its
    mean probability (of sigmoids, their share), both over all tokens; experts_per_token when all are loaded alike.
    Z: the mean of logsumexp(logits)² (Zoph et al. 2022, equation 5).
    BIAS: zero, and its gradient with respect to `bias_i` is load_i - mean load, in choices: additive over tokens, so
    that any cut of a batch gives the same step. VIOLATION: (largest load - mean load) / mean load (Wang et al. 2024).
    """
    experts = logits.shape[-1]
    real = jnp.where(padding, 0.0, 1.0)
    tokens = jnp.maximum(real.sum(), 1.0)
    # Compared, not scattered: adds up where the tokens are, and nothing but the sums leaves its device.
    load = ((chosen[..., None] == jnp.arange(experts)) * real[..., None, None]).sum(axis=(0, 1, 2))
    load = jax.lax.stop_gradient(load)
    losses = {}
    if routing.balance_loss:
        shares = jax.nn.softmax(logits, axis=-1)
        if routing.scores == "sigmoid":
            scores = jax.nn.sigmoid(logits)
            shares = scores / (scores.sum(axis=-1, keepdims=True) + 1e-20)
        mean_share = (shares * real[..., None]).sum(axis=(0, 1)) / tokens
        losses[BALANCE] = experts * (load / tokens * mean_share).sum()
    if routing.z_loss:
        losses[Z] = (jax.nn.logsumexp(logits, axis=-1) ** 2 * real).sum() / tokens
    if routing.bias_rate and bias is not None:
        away = load - load.mean()
        losses[BIAS] = (away * (bias - jax.lax.stop_gradient(bias))).sum()
        losses[VIOLATION] = away.max() / jnp.maximum(load.mean(), 1.0 / experts)
    return losses
