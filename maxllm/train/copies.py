"""Gradients of copies of the model, each from its own rows, added up by hand: once a step.

Left to itself, the compiler adds gradients up over all devices after every micro-batch. Here each copy adds up its own
micro-batches, and what it has then travels once: over `data`, the slowest network, and, where every device holds whole
gradients anyway (ZeRO 1), over `fsdp`. That is also the place where they can be compressed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxllm.batch import Batch
from maxllm.parallel.compression import Form, compressed_sum
from maxllm.parallel.rules import WHOLE, constrain, map_axes, mesh_axes, pin, spec

Sums = Callable[[nnx.State, Batch], tuple[nnx.State, Any]]


def gathered(structure: nnx.GraphDef, variables: nnx.State, mesh: Mesh) -> nnx.State:
    """Every parameter whole on each device, in the model's compute dtype, for the time of a step: ZeRO 1 and 2, where
    the float32 ones are split as the moments are (Rajbhandari et al. 2020, section 5)."""
    dtype = nnx.merge(structure, variables).dtype

    def cast(leaf: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
        alone = spec(names) == spec(names, WHOLE)  # not gathered: nothing to save, and norms and the like stay float32
        return leaf if alone else constrain(leaf.astype(dtype), *names)

    parameters, others = nnx.split_state(variables, nnx.Param, ...)
    return nnx.merge_state(pin(map_axes(cast, parameters), mesh, WHOLE), others)


def copy_axes(mesh: Mesh, zero: int) -> tuple[str, ...]:
    """The mesh axes whose devices may keep gradients of their own until the end of a step."""
    return tuple(axis for axis in (("data", "fsdp") if zero == 1 else ("data",)) if mesh.shape[axis] > 1)


def added_up(sums: Sums, axes: tuple[str, ...], compressed: bool) -> Callable[..., tuple[nnx.State, Any]]:
    """(parameters, batch) -> (gradients of the mean over all rows, float32, split by RULES; terms).

    `sums`: (parameters, rows) -> (Σ gradients, {term: Weighted}), which each copy calls with its own rows. `axes`: of
    `copy_axes`. `compressed`: leave each copy's share of the gradients `[data, ...]` to `compressed_over_data`.
    """

    def one_copy(parameters: nnx.State, batch: Batch) -> tuple[nnx.State, Any]:
        gradients, terms = sums(parameters, batch)
        terms = jax.lax.psum(terms, axes)
        weight = jnp.where(terms["loss"].weight == 0, 1.0, terms["loss"].weight)

        def finish(gradient: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
            gradient = gradient.astype(jnp.float32) / weight
            if "fsdp" in axes:
                gradient = _split(gradient, names)
            if compressed:
                return gradient[None]
            return constrain(jax.lax.psum(gradient, "data") if "data" in axes else gradient, *names)

        return map_axes(finish, gradients), terms

    def run(parameters: nnx.State, batch: Batch) -> tuple[nnx.State, Any]:
        lead = ("data",) if compressed else ()
        places = map_axes(lambda _, names: PartitionSpec(*lead, *(_kept(name, axes) for name in names)), parameters)
        return jax.shard_map(
            one_copy,
            in_specs=(PartitionSpec(), PartitionSpec(axes)),
            out_specs=(places, PartitionSpec()),
            axis_names=set(axes),
            check_vma=False,
        )(parameters, batch)

    return run


def _split(gradient: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Σ over fsdp, of which each device keeps the part whose moments it has; all of it where those are not split."""
    for dimension, name in enumerate(names):
        if _kept(name, ("fsdp",)):
            return jax.lax.psum_scatter(gradient, "fsdp", scatter_dimension=dimension, tiled=True)
    return jax.lax.psum(gradient, "fsdp")


def _kept(name: str | None, axes: tuple[str, ...]) -> str | None:
    """Of the mesh axes that the logical axis `name` is split over, the one the copies' gradients are split over."""
    return "fsdp" if "fsdp" in axes and "fsdp" in mesh_axes(*spec((name,))) else None


def compressed_over_data(parts: nnx.State, waiting: nnx.State, mesh: Mesh, form: Form) -> tuple[nnx.State, nnx.State]:
    """(Σ of the copies' `parts` `[data, ...]` and of what waits, nearly; what waits now `[data, ...]`), float32."""
    one = map_axes(lambda _, names: spec(names), parts)
    each = map_axes(lambda _, names: PartitionSpec("data", *spec(names)), parts)

    def exchange(parts: nnx.State, waiting: nnx.State) -> tuple[list[jax.Array], list[jax.Array]]:
        pairs = [
            compressed_sum(part[0], left[0], "data", form)
            for part, left in zip(jax.tree.leaves(parts), jax.tree.leaves(waiting), strict=True)
        ]
        structure = jax.tree.structure(parts)
        return structure.unflatten([total for total, _ in pairs]), structure.unflatten(
            [left[None] for _, left in pairs]
        )

    return jax.shard_map(exchange, mesh=mesh, in_specs=(each, each), out_specs=(one, each), check_vma=False)(
        parts, waiting
    )


def nothing_waiting(parameters: nnx.State, mesh: Mesh) -> nnx.State:
    """What compression has not sent yet at a run's beginning: zeros `[data, ...]` for each parameter."""
    return jax.tree.map(lambda leaf: jnp.zeros((mesh.shape["data"], *leaf.shape), jnp.float32), parameters)


def waiting_shardings(parameters: nnx.State, mesh: Mesh) -> nnx.State:
    """Each copy keeps its own, split as the moments are."""
    return map_axes(lambda _, names: NamedSharding(mesh, PartitionSpec("data", *spec(names))), parameters)
