"""Everything a step changes, as one pytree, and where each part of it lives."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from maxllm.models.decoder import Decoder
from maxllm.parallel.rules import shardings
from maxllm.train.copies import nothing_waiting, waiting_shardings


class TrainState(NamedTuple):
    """`step`: int32 scalar, the number of updates made; `parameters`: `nnx.split(model)[1]`.

    `objective`: what an objective remembers from step to step (DoReMi's domain weights), whole on every device; most
    remember nothing. `scaling`: what fp8 products with delayed scaling remember (maxllm/quant), of the layers' layout.
    `waiting`: what compressed gradients have not sent yet (parallel/compression.py), float32 `[data, ...]` for each
    parameter.
    """

    step: jax.Array
    parameters: nnx.State
    optimizer: Any
    objective: Any = ()
    scaling: Any = ()
    waiting: Any = ()


def abstract_state(
    parameters: nnx.State,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    objective: Any = (),
    *,
    scaling: Any = (),
    compress: str = "none",
) -> TrainState:
    """Shapes and shardings of a state, nothing allocated: what a checkpoint is restored into, and a plan compiled for.

    `parameters`: arrays, or shapes from `maxllm.models.abstract`. `compress`: MeshConfig's. The layout
    does not depend on ZeRO's level: what levels 1 and 2 hold whole lives for a step (train/copies.py).
    """
    shape = jax.eval_shape(
        lambda p, own, scaling: TrainState(jnp.int32(0), p, optimizer.init(p), own, scaling),
        parameters,
        objective,
        scaling,
    )
    layout = shardings(shape, mesh)
    if compress != "none":
        shape = shape._replace(waiting=jax.eval_shape(lambda p: nothing_waiting(p, mesh), parameters))
        layout = layout._replace(waiting=waiting_shardings(parameters, mesh))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shape, layout
    )


def create_state(
    model: Decoder,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    objective: Any = (),
    *,
    scaling: Any = (),
    compress: str = "none",
) -> tuple[nnx.GraphDef, TrainState]:
    """The model's structure, and the state at step 0 with the model's own parameters in it."""
    structure, parameters = nnx.split(model)
    shape = abstract_state(parameters, optimizer, mesh, objective, scaling=scaling, compress=compress)
    layout = jax.tree.map(lambda leaf: leaf.sharding, shape)
    step, moments = jax.jit(lambda p: (jnp.int32(0), optimizer.init(p)), out_shardings=(layout.step, layout.optimizer))(
        parameters
    )
    parameters = jax.device_put(parameters, layout.parameters)
    rest = (
        jax.device_put(jax.device_get(tree), at)
        for tree, at in ((objective, layout.objective), (scaling, layout.scaling))
    )
    return structure, TrainState(step, parameters, moments, *rest, zeros_like_abstract(shape.waiting))


def zeros_like_abstract(tree: Any) -> Any:
    """Zeros of the shapes and shardings of a tree of `jax.ShapeDtypeStruct`, each made where it will live."""
    shardings_of = jax.tree.map(lambda leaf: leaf.sharding, tree)
    make = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree), out_shardings=shardings_of
    )
    return make()
