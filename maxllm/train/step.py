"""The one train step and the one eval step, for every objective, optimizer and layout."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from maxllm.batch import Batch
from maxllm.config.parallel import PipelineConfig
from maxllm.objectives.weighted import Weighted
from maxllm.parallel.rules import RULES, WHOLE, pin
from maxllm.train.micro_batches import micro_batches, sum_over
from maxllm.train.pipeline import pipelined_gradients
from maxllm.train.state import TrainState

Objective = Callable[[Any, Batch], dict[str, Weighted]]
Metrics = dict[str, jax.Array]
# (state, whole batch, frozen) -> the batch to learn from, the objective's new memory, numbers to report.
Adapt = Callable[[TrainState, Batch, Any], tuple[Batch, Any, Metrics]]


class Step:
    """A compiled function of (state or parameters, batch) under its mesh; `lower` compiles it ahead of time."""

    def __init__(self, mesh: Mesh, function: Callable[..., Any], *more: Any, **options: Any):
        self.mesh, self.more = mesh, more
        self.compiled = jax.jit(function, **options)

    def __call__(self, state: Any, batch: Batch) -> Any:
        with jax.set_mesh(self.mesh):
            return self.compiled(state, batch, *self.more)

    def lower(self, state: Any, batch: Batch) -> jax.stages.Lowered:
        """For `state` and `batch` as arrays or as `jax.ShapeDtypeStruct`s with shardings."""
        with jax.set_mesh(self.mesh):
            return self.compiled.lower(state, batch, *self.more)


def make_train_step(
    structure: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulation_steps: int = 1,
    zero: int = 3,
    pipeline: PipelineConfig | None = None,
    adapt: Adapt | None = None,
    frozen: Any = (),
) -> Step:
    """A compiled (state, batch) -> (state, metrics). The state passed in is donated: use only the one returned.

    The batch is cut into `accumulation_steps` micro-batches whose sums of gradients and weights are added up and
    divided once, so that neither the cut nor uneven weights change the result. On a mesh with stages they go through
    the pipeline. Metrics, float32 scalars: each term of the objective, `weight` (targets that counted),
    `gradient_norm` (before clipping).

    `zero`: as in MeshConfig, of the state too. `adapt` sees the whole batch before it is cut, for objectives that weigh
    its rows by something learned; `frozen`: arrays it needs that no step changes (another model's parameters).
    """
    parameter_rules, gradient_rules = (RULES if zero == 3 else WHOLE), (WHOLE if zero == 1 else RULES)
    gradients_of = accumulated_gradients
    if mesh.shape["stage"] > 1:
        gradients_of = functools.partial(pipelined_gradients, pipeline=pipeline or PipelineConfig())

    def step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        own, reported = state.objective, {}
        if adapt:
            batch, own, reported = adapt(state, batch, frozen)
        gradients, terms = gradients_of(structure, objective, state.parameters, batch, accumulation_steps)
        gradients = pin(gradients, mesh, gradient_rules)
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = pin(optax.apply_updates(state.parameters, updates), mesh, parameter_rules)
        metrics = {name: term.mean() for name, term in terms.items()}
        metrics |= {"weight": terms["loss"].weight, "gradient_norm": optax.global_norm(gradients)}
        return TrainState(state.step + 1, parameters, pin(moments, mesh), own), metrics | reported

    return Step(mesh, step, frozen, donate_argnums=0)


def make_eval_step(structure: nnx.GraphDef, objective: Objective, mesh: Mesh) -> Step:
    """A compiled (parameters, batch) -> the objective's terms, sums not yet divided."""
    return Step(mesh, lambda parameters, batch: objective(nnx.merge(structure, parameters), batch))


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
