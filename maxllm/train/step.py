"""The one train step and the one eval step, for every objective, optimizer and layout."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from maxllm.batch import Batch
from maxllm.config.parallel import PipelineConfig
from maxllm.objectives.weighted import Weighted
from maxllm.optim.router_bias import without_biases
from maxllm.parallel.compiler_flags import compiler_options
from maxllm.parallel.rules import constrain, map_axes, pin
from maxllm.quant import after_step, join, split
from maxllm.train.copies import added_up, compressed_over_data, copy_axes, gathered
from maxllm.train.micro_batches import mean, micro_batches, sum_over
from maxllm.train.pipeline import pipelined_gradients, pipelined_terms, summed_in_stages
from maxllm.train.state import TrainState

Objective = Callable[[Any, Batch], dict[str, Weighted]]
Metrics = dict[str, jax.Array]
Flags = Mapping[str, bool | int | str]
# (state, whole batch, frozen) -> the batch to learn from, the objective's new memory, numbers to report.
Adapt = Callable[[TrainState, Batch, Any], tuple[Batch, Any, Metrics]]


class Step:
    """A compiled function of (state or parameters, batch) under its mesh; `lower` compiles it ahead of time, with the
    same compiler options: those of the devices' kind, and `flags`, which win."""

    def __init__(
        self, mesh: Mesh, function: Callable[..., Any], *more: Any, flags: Flags | None = None, **options: Any
    ):
        self.mesh, self.more = mesh, more
        self.compiled = jax.jit(function, compiler_options=compiler_options(mesh, flags), **options)

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
    compress: str = "none",
    pipeline: PipelineConfig | None = None,
    adapt: Adapt | None = None,
    frozen: Any = (),
    flags: Flags | None = None,
) -> Step:
    """A compiled (state, batch) -> (state, metrics). The state passed in is donated: use only the one returned.

    The batch is cut into `accumulation_steps` micro-batches whose sums of gradients and weights are added up and
    divided once, so that neither the cut nor uneven weights change the result. On a mesh with stages they go through
    the pipeline. Metrics, float32 scalars: each term of the objective, `weight` (targets that counted),
    `gradient_norm` (before clipping).

    `zero`, `compress`: as in MeshConfig; compression needs a state made for it. `adapt` sees the whole batch before
    it is cut, for objectives that weigh its rows by something learned; `frozen`: arrays it needs that no step
    changes (another model's parameters). `flags`: of the
    compiler, over those of parallel/compiler_flags.py.
    """
    gradients_of = _gradients_of(structure, objective, mesh, accumulation_steps, zero, compress, pipeline)

    def step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        own, reported = state.objective, {}
        if adapt:
            batch, own, reported = adapt(state, batch, frozen)
        learned = join(state.parameters, state.scaling)
        if zero < 3:
            learned = gathered(structure, learned, mesh)
        gradients, terms, waiting = gradients_of(learned, batch, state.waiting)
        gradients, met = split(gradients)
        gradients = _as_float32(pin(gradients, mesh))
        updates, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = pin(optax.apply_updates(state.parameters, updates), mesh)
        metrics = {name: term.mean() for name, term in terms.items()}
        metrics |= {"weight": terms["loss"].weight, "gradient_norm": optax.global_norm(without_biases(gradients))}
        if (sparsity := optax.tree.get(moments, "sparsity")) is not None:
            reported = reported | {"sparsity": sparsity}
        scaling = pin(after_step(state.scaling, met), mesh)
        return TrainState(state.step + 1, parameters, pin(moments, mesh), own, scaling, waiting), metrics | reported

    return Step(mesh, step, frozen, flags=flags, donate_argnums=0)


def make_eval_step(structure: nnx.GraphDef, objective: Objective, mesh: Mesh) -> Step:
    """A compiled (parameters, batch) -> the objective's terms, sums not yet divided."""
    if mesh.shape["stage"] > 1:
        return Step(mesh, functools.partial(pipelined_terms, structure, objective))
    return Step(mesh, lambda parameters, batch: objective(nnx.merge(structure, parameters), batch))


def gradient_function(mesh: Mesh, pipeline: PipelineConfig) -> Callable[..., tuple[nnx.State, dict[str, Weighted]]]:
    """`accumulated_gradients`, or, where the mesh has stages, what sends the micro-batches through them."""
    if mesh.shape["stage"] == 1:
        return accumulated_gradients
    return functools.partial(pipelined_gradients, pipeline=pipeline)


def _gradients_of(
    structure: nnx.GraphDef,
    objective: Objective,
    mesh: Mesh,
    accumulation_steps: int,
    zero: int,
    compress: str,
    pipeline: PipelineConfig | None,
) -> Callable[[nnx.State, Batch, Any], tuple[nnx.State, dict[str, Weighted], Any]]:
    """(parameters, batch, what compression has not sent) -> (gradients of the mean, terms, what it has not sent)."""
    summed = summed_gradients
    if mesh.shape["stage"] > 1:
        summed = functools.partial(summed_in_stages, pipeline=pipeline or PipelineConfig())
    axes = copy_axes(mesh, zero)

    def gradients_of(parameters: nnx.State, batch: Batch, waiting: Any) -> tuple[nnx.State, dict[str, Weighted], Any]:
        compressed = waiting != ()
        if compressed or (accumulation_steps > 1 and axes):
            gradients, terms = added_up(sums, axes, compressed)(parameters, batch)
            if compressed:
                gradients, met = split(gradients)  # counts, of which compression would lose some
                gradients, waiting = compressed_over_data(gradients, waiting, mesh, compress)
                gradients = join(gradients, jax.tree.map(lambda counts: jnp.sum(counts, 0), met))
            return gradients, terms, waiting
        return *mean(*sums(parameters, batch)), waiting

    def sums(parameters: nnx.State, batch: Batch) -> tuple[nnx.State, dict[str, Weighted]]:
        return summed(structure, objective, parameters, batch, accumulation_steps)

    return gradients_of


def accumulated_gradients(
    structure: nnx.GraphDef, objective: Objective, parameters: nnx.State, batch: Batch, accumulation_steps: int
) -> tuple[nnx.State, dict[str, Weighted]]:
    """Gradients of the mean of the term "loss" over the whole batch, and every term's sum and weight."""
    return mean(*summed_gradients(structure, objective, parameters, batch, accumulation_steps))


def summed_gradients(
    structure: nnx.GraphDef, objective: Objective, parameters: nnx.State, batch: Batch, accumulation_steps: int
) -> tuple[nnx.State, dict[str, Weighted]]:
    """Gradients of the sum of the term "loss", one micro-batch after another, and every term's sum and weight."""

    def micro_step(batch: Batch) -> tuple[nnx.State, dict[str, Weighted]]:
        def total(parameters: nnx.State) -> tuple[jax.Array, dict[str, Weighted]]:
            terms = objective(nnx.merge(structure, parameters), batch)
            return terms["loss"].sum, terms

        return jax.grad(total, has_aux=True)(parameters)

    def micro_sum(batch: Batch) -> tuple[nnx.State, dict[str, Weighted]]:
        gradients, terms = micro_step(batch)
        # What is added up is split as the moments are, but over axes whose devices each have gradients of their own.
        return map_axes(lambda gradient, names: constrain(gradient, *names), _as_float32(gradients)), terms

    if accumulation_steps == 1:
        return micro_step(batch)
    return sum_over(micro_sum, micro_batches(batch, accumulation_steps))


def _as_float32(gradients: nnx.State) -> nnx.State:
    return jax.tree.map(lambda gradient: gradient.astype(jnp.float32), gradients)
