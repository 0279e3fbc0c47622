"""Every way of routing, its losses, and what goes around the experts: beside a loop over experts and tokens."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.model import ModelConfig
from maxllm.config.model_parts import RoutingConfig
from maxllm.models.moe import MoE, capacity_of
from maxllm.models.router import BALANCE, BIAS, VIOLATION, Z, choose, router_losses

EMBED, EXPERT, EXPERTS, CHOSEN = 8, 6, 8, 3
ROWS, LENGTH = 2, 10
ROUTINGS = {
    "mixtral": RoutingConfig(),
    "qwen2_moe": RoutingConfig(normalise=False, shared_size=10, shared_gate=True),
    "deepseek_v3": RoutingConfig(scores="sigmoid", scale=2.5, groups=4, groups_per_token=2, bias=True, shared_size=5),
}


def chosen_by_one(logits: np.ndarray, routing: RoutingConfig, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One token's scores, and its experts, best first. DeepSeek-V3's section 2.1.2 and its group-limited gate."""
    scores = 1 / (1 + np.exp(-logits)) if routing.scores == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
    ranks = scores + bias
    if routing.groups > 1:
        size = EXPERTS // routing.groups
        worth = [np.sort(ranks[g * size : (g + 1) * size])[-2:].sum() for g in range(routing.groups)]
        for group in np.argsort(worth)[: routing.groups - routing.groups_per_token]:
            ranks[group * size : (group + 1) * size] = -np.inf
    return scores, np.argsort(-ranks)[:CHOSEN]


def some_logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, LENGTH, EXPERTS)).astype(np.float32)


def some_bias(routing: RoutingConfig) -> np.ndarray:
    return np.random.default_rng(1).normal(size=EXPERTS) * 0.3 * routing.bias


@pytest.mark.parametrize("name", ROUTINGS)
def test_a_token_goes_where_its_paper_says(name):
    routing, logits = ROUTINGS[name], some_logits()
    bias = some_bias(routing)
    weights, chosen = choose(jnp.array(logits), CHOSEN, routing, jnp.float32(bias) if routing.bias else None)
    unbiased = 0
    for at in np.ndindex(ROWS, LENGTH):
        scores, best = chosen_by_one(np.float64(logits[at]), routing, bias)
        np.testing.assert_array_equal(chosen[at], best)
        want = scores[best] / (scores[best].sum() if routing.normalise else 1) * routing.scale
        np.testing.assert_allclose(weights[at], want, rtol=1e-5)
        unbiased += set(best) == set(np.argsort(-scores)[:CHOSEN])
    assert (unbiased < ROWS * LENGTH) == routing.bias  # bias and groups do change choices here


@functools.cache
def layer(name: str, capacity_factor: float | None = None) -> MoE:
    routing = ROUTINGS[name]
    shape = (EMBED, EXPERT, EXPERTS, CHOSEN)
    options = {"capacity_factor": capacity_factor, "routing": routing, "std": 0.5}
    moe = nnx.jit(lambda: MoE(*shape, **options, rngs=nnx.Rngs(0)))()
    if routing.bias:
        moe.router.bias[...] = jnp.float32(some_bias(routing))
    return moe


def silu(x):
    return x / (1 + jnp.exp(-x))


def choices(moe: MoE, x: np.ndarray, padding: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """1 where a token chose an expert, and 1 where it found room there."""
    logits = np.float64(x @ np.asarray(moe.router.kernel[...]))
    picked, room = np.zeros(logits.shape, np.float32), np.zeros(logits.shape, np.float32)
    for row in range(ROWS):
        taken = np.zeros(EXPERTS, int)
        for place in np.flatnonzero(~padding[row]):
            best = chosen_by_one(logits[row, place], moe.routing, some_bias(moe.routing))[1]
            taken[best] += 1
            picked[row, place, best] = 1
            room[row, place, best] = taken[best] <= capacity
    return picked, room


def loop_over_experts(moe: MoE, x: jax.Array, picked: np.ndarray, room: np.ndarray) -> jax.Array:
    """All experts on all tokens, weighted by what the token's choice gives them."""
    routing, logits = moe.routing, x @ moe.router.kernel[...]
    scores = jax.nn.sigmoid(logits) if routing.scores == "sigmoid" else jax.nn.softmax(logits)
    weights = scores * picked
    if routing.normalise:
        weights = weights / jnp.where(picked.any(-1, keepdims=True), weights.sum(-1, keepdims=True), 1)
    out = 0.0
    for expert in range(EXPERTS):
        y = (silu(x @ moe.gate[expert]) * (x @ moe.up[expert])) @ moe.down[expert]
        out += (weights * routing.scale * room)[..., expert, None] * y
    if routing.shared_size:
        gate, up, down = (getattr(moe.shared, part).kernel[...] for part in ("gate", "up", "down"))
        shared = (silu(x @ gate) * (x @ up)) @ down
        out += jax.nn.sigmoid(x @ moe.shared_gate[...]) * shared if routing.shared_gate else shared
    return out


@pytest.mark.parametrize("name, factor", [("qwen2_moe", None), ("deepseek_v3", None), ("deepseek_v3", 0.6)])
def test_outputs_and_gradients_are_those_of_a_loop_over_experts(name, factor):
    moe = layer(name, factor)
    x = np.random.default_rng(2).normal(size=(ROWS, LENGTH, EMBED)).astype(np.float32)
    segment_ids = np.ones((ROWS, LENGTH), np.int32)
    segment_ids[:, :2] = segment_ids[1, 7:] = 0
    padding = segment_ids == 0
    structure, parameters = nnx.split(moe)
    capacity = LENGTH if factor is None else capacity_of(LENGTH, EXPERTS, CHOSEN, factor)
    weights = np.random.default_rng(3).normal(size=x.shape)

    loop = functools.partial(
        loop_over_experts, **dict(zip(("picked", "room"), choices(moe, x, padding, capacity), strict=True))
    )

    def ways(parameters, x):
        def one(run):
            def value(parameters, x):
                out = run(nnx.merge(structure, parameters), x)
                return (out * weights).sum(), out

            (_, out), gradients = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(parameters, x)
            return out, gradients

        return one(lambda moe, x: moe(x, segment_ids)[0]), one(loop)

    ours, theirs = jax.jit(ways)(parameters, x)
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5)
    assert (choices(moe, x, padding, capacity)[1].sum() < (~padding).sum() * CHOSEN) == (factor is not None)


def test_losses_are_the_papers_formulas_over_the_tokens_that_are_not_padding():
    asked = {"balance_loss": 0.1, "z_loss": 0.1, "bias_rate": 0.1}
    logits, padding = some_logits(), np.zeros((ROWS, LENGTH), bool)
    padding[0, 6:] = True
    real = np.float64(logits[~padding])
    for scores in ("softmax", "sigmoid"):
        routing = RoutingConfig(scores=scores, **asked)
        bias = jnp.linspace(0, 0.1, EXPERTS)
        chosen = choose(jnp.array(logits), CHOSEN, routing, bias)[1]
        losses = router_losses(jnp.array(logits), chosen, padding, routing, bias)
        load = np.bincount(np.asarray(chosen)[~padding].ravel(), minlength=EXPERTS)
        shares = np.exp(real) if scores == "softmax" else 1 / (1 + np.exp(-real))
        mean_share = (shares / shares.sum(-1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(losses[BALANCE], EXPERTS * (load / len(real) * mean_share).sum(), rtol=1e-5)
        np.testing.assert_allclose(losses[Z], (np.log(np.exp(real).sum(-1)) ** 2).mean(), rtol=1e-5)
        np.testing.assert_allclose(losses[VIOLATION], load.max() / load.mean() - 1, rtol=1e-5)
        assert losses[BIAS] == 0
        zero = functools.partial(router_losses, jnp.array(logits), chosen, padding, routing)
        gradient = jax.grad(lambda b, zero=zero: zero(b)[BIAS])(bias)
        np.testing.assert_allclose(gradient, load - load.mean(), atol=1e-5)


def test_even_loads_cost_experts_per_token_and_uneven_ones_more():
    routing = RoutingConfig(balance_loss=1.0)
    even = jnp.array(np.arange(ROWS * LENGTH * 4).reshape(ROWS, LENGTH, 4) % EXPERTS)
    padding = np.zeros((ROWS, LENGTH), bool)
    flat = jnp.zeros((ROWS, LENGTH, EXPERTS))
    assert router_losses(flat, even, padding, routing)[BALANCE] == pytest.approx(4)
    tilted = flat.at[..., 0].set(5.0)
    assert router_losses(tilted, choose(tilted, 4, routing)[1], padding, routing)[BALANCE] > 6


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"routing": {"groups": 3}}, "num_experts 8 is not divisible by routing.groups 3"),
        ({"routing": {"groups": 2, "groups_per_token": 4}}, "groups_per_token 4 of only 2"),
        ({"routing": {"groups": 8}}, "experts_per_token 2 of only 1 experts within"),
        ({"activation": "relu"}, "experts are SwiGLUs"),
    ],
)
def test_a_routing_that_cannot_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(num_experts=8, **settings)
