"""The layout: which mesh axes each logical axis is spread over. Nothing else in the project decides it."""

from __future__ import annotations

import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxllm.config.errors import UserError
from maxllm.config.train import MeshConfig, ModelConfig

# Parameters are split over fsdp along `embed` and over tensor along heads, mlp and vocab; activations over
# (data, fsdp) along `batch`. None: whole on every device. Norm weights are too small to be worth gathering.
RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "length": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "norm": None,
    "layers": None,
    None: None,
}


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """The mesh axes of an array whose dimensions are the logical `axes`."""
    return PartitionSpec(*(RULES[axis] for axis in axes))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """One NamedSharding per leaf: by `axes` where a leaf is an `nnx.Variable` that names them, else replicated."""

    def sharding(leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            return leaf.replace(NamedSharding(mesh, spec(leaf.get_metadata().get("axes", ()))))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(sharding, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` laid out by its logical axes under the mesh of `jax.set_mesh`; `x` itself where there is none.

    A dimension that its mesh axes do not divide (a batch of one prompt, say) is left whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x

    def divides(size: int, entry: Any) -> bool:
        names = (entry,) if isinstance(entry, str) else entry or ()
        return size % math.prod(mesh.shape[name] for name in names) == 0

    layout = [entry if divides(size, entry) else None for size, entry in zip(x.shape, spec(axes), strict=True)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*layout))


def check_layout(model: ModelConfig, mesh: Mesh | MeshConfig, micro_batch_size: int | None = None) -> None:
    """Refuses, in one sentence, a mesh that cannot hold this model or split this batch evenly. Raises UserError.

    Axes that are -1 in a MeshConfig are not known yet and are not checked; check the mesh itself once it exists.
    """
    if isinstance(mesh, Mesh):
        sizes = dict(mesh.shape)
    else:
        sizes = {axis: getattr(mesh, axis) for axis in ("data", "fsdp", "tensor")}
    dimensions = {
        "model.num_heads": (model.num_heads, "heads"),
        "model.num_kv_heads": (model.num_kv_heads, "kv_heads"),
        "model.intermediate_size": (model.intermediate_size, "mlp"),
        "model.vocab_size": (model.vocab_size, "vocab"),
        "model.hidden_size": (model.hidden_size, "embed"),
    }
    if micro_batch_size is not None:
        dimensions["data.batch_size / train.accumulation_steps"] = (micro_batch_size, "batch")
    for setting, (size, axis) in dimensions.items():
        names = RULES[axis]
        names = (names,) if isinstance(names, str) else names or ()
        parts = [sizes[name] for name in names]
        if -1 not in parts and size % math.prod(parts):
            product = " x ".join(f"mesh.{name}" for name in names)
            raise UserError(
                f"{setting} {size} is not divisible by {product} = {math.prod(parts)}; "
                f"choose {product} among its divisors"
            )
