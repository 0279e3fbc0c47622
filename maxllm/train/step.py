"""The one train step and the one eval step, for every objective, optimizer and layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from maxllm.batch import Batch
from maxllm.objectives.weighted import Weighted
from maxllm.parallel.rules import constrain
from maxllm.train.state import TrainState

Objective = Callable[[Any, Batch], dict[str, Weighted]]
Metrics = dict[str, jax.Array]
# (state, whole batch, frozen) -> the batch to learn from, the objective's new memory, numbers to report.
Adapt = Callable[[TrainState, Batch, Any], tuple[Batch, Any, Metrics]]


def make_train_step(
    structure: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulation_steps: int = 1,
    adapt: Adapt | None = None,
    frozen: Any = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A compiled (state, batch) -> (state, metrics). The state passed in is donated: use only the one returned.

    The batch is cut into `accumulation_steps` micro-batches whose sums of gradients and weights are added up and
    divided once, so that neither the cut nor uneven weights change the result. Metrics, float32 scalars: each term
    of the objective, `weight` (targets that counted), `gradient_norm` (before clipping).

    `adapt` sees the whole batch before it is cut, for objectives that weigh its rows by something learned; `frozen`:
    arrays it needs that no step changes (another model's parameters).
    """

    def step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        own, reported = state.objective, {}
        if adapt:
            batch, own, reported = adapt(state, batch, frozen)
        gradients, terms = accumulated_gradients(structure, objective, state.parameters, batch, accumulation_steps)
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        metrics = {name: term.mean() for name, term in terms.items()}
        metrics |= {"weight": terms["loss"].weight, "gradient_norm": optax.global_norm(gradients)}
        return TrainState(state.step + 1, parameters, moments, own), metrics | reported

    compiled = _under(mesh, jax.jit(step, donate_argnums=0))
    return lambda state, batch: compiled(state, batch, frozen)


def make_eval_step(
    structure: nnx.GraphDef, objective: Objective, mesh: Mesh
) -> Callable[[nnx.State, Batch], dict[str, Weighted]]:
    """A compiled (parameters, batch) -> the objective's terms, sums not yet divided."""
    return _under(mesh, jax.jit(lambda parameters, batch: objective(nnx.merge(structure, parameters), batch)))


def accumulated_gradients(
    structure: nnx.GraphDef, objective: Objective, parameters: nnx.State, batch: Batch, accumulation_steps: int
) -> tuple[nnx.State, dict[str, Weighted]]:
    """Gradients of the mean of the term "loss" over the whole batch, and every term's sum and weight."""

    def micro_step(batch: Batch) -> tuple[nnx.State, dict[str, Weighted]]:
        def total(parameters: nnx.State) -> tuple[jax.Array, dict[str, Weighted]]:
            terms = objective(nnx.merge(structure, parameters), batch)
            return terms["loss"].sum, terms

        gradients, terms = jax.grad(total, has_aux=True)(parameters)
        return gradients, terms

    if accumulation_steps == 1:
        gradients, terms = micro_step(batch)
    else:
        gradients, terms = sum_over(micro_step, micro_batches(batch, accumulation_steps))
    weight = jnp.where(terms["loss"].weight == 0, 1.0, terms["loss"].weight)
    return jax.tree.map(lambda gradient: gradient / weight, gradients), terms


def sum_over(function: Callable[[Batch], Any], batches: Batch) -> Any:
    """The sum of `function`'s results, one micro-batch after another."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda rows: rows[0], batches))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(lambda sums, batch: (jax.tree.map(jnp.add, sums, function(batch)), None), zeros, batches)[0]


def micro_batches(batch: Batch, count: int) -> Batch:
    """`[count, batch / count, length]`; micro-batch i is rows i, i + count, ...: no row leaves its device."""

    def cut(rows: jax.Array) -> jax.Array:
        cut = rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(cut, None, "batch", "length")

    return jax.tree.map(cut, batch)


def _under(mesh: Mesh, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled` run with `mesh` as the mesh that `constrain` sees."""

    def run(*arguments: Any) -> Any:
        with jax.set_mesh(mesh):
            return compiled(*arguments)

    return run
