"""Everything a step changes, as one pytree, and where each part of it lives."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from maxllm.models.decoder import Decoder
from maxllm.parallel.rules import WHOLE, shardings


class TrainState(NamedTuple):
    """`step`: int32 scalar, the number of updates made; `parameters`: `nnx.split(model)[1]`.

    `objective`: what an objective remembers from step to step (DoReMi's domain weights), whole on every device; most
    remember nothing.
    """

    step: jax.Array
    parameters: nnx.State
    optimizer: Any
    objective: Any = ()


def abstract_state(
    parameters: nnx.State, optimizer: optax.GradientTransformation, mesh: Mesh, objective: Any = (), *, zero: int = 3
) -> TrainState:
    """Shapes and shardings of a state, nothing allocated: what a checkpoint is restored into, and a plan compiled for.

    `parameters`: arrays, or shapes from `maxllm.models.abstract`. Moments are always split; `zero`: MeshConfig's.
    """
    shape = jax.eval_shape(lambda p, own: TrainState(jnp.int32(0), p, optimizer.init(p), own), parameters, objective)
    layout = shardings(shape, mesh)
    if zero < 3:
        layout = layout._replace(parameters=shardings(shape.parameters, mesh, WHOLE))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shape, layout
    )


def create_state(
    model: Decoder, optimizer: optax.GradientTransformation, mesh: Mesh, objective: Any = (), *, zero: int = 3
) -> tuple[nnx.GraphDef, TrainState]:
    """The model's structure, and the state at step 0 with the model's own parameters in it."""
    structure, parameters = nnx.split(model)
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(parameters, optimizer, mesh, objective, zero=zero))
    step, moments = jax.jit(lambda p: (jnp.int32(0), optimizer.init(p)), out_shardings=(layout.step, layout.optimizer))(
        parameters
    )
    parameters = jax.device_put(parameters, layout.parameters)
    return structure, TrainState(step, parameters, moments, jax.device_put(jax.device_get(objective), layout.objective))
