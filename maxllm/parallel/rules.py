"""The layout: which mesh axes each logical axis is spread over. Nothing else in the project decides it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig

# None: whole on every device. A parameter is split along `embed` over every axis whose devices would hold the same
# numbers otherwise, but for `data`: that one is for copies. An expert's matrices are split over `expert` already.
# The vocabulary is split over the stages too: the head's work comes between stages, and all of them share it.
RULES: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp", "expert"),
    "length": "context",
    "sequence": ("context", "tensor"),  # the length between blocks, where nothing else is split over tensor
    "embed": ("fsdp", "expert", "context"),
    "expert_embed": ("fsdp", "context"),
    "experts": "expert",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": ("tensor", "stage"),
    "norm": None,  # too small to be worth gathering
    "layers": "stage",
    None: None,
}
# Parameters where only gradients and moments are split (ZeRO 1 and 2, Rajbhandari et al. 2020).
WHOLE = RULES | {"embed": None, "expert_embed": None}


def spec(axes: tuple[str | None, ...], rules: Any = RULES) -> PartitionSpec:
    """The mesh axes of an array whose dimensions are the logical `axes`."""
    return PartitionSpec(*(rules[axis] for axis in axes))


def shardings(tree: Any, mesh: Mesh, rules: Any = RULES) -> Any:
    """One NamedSharding per leaf: by `axes` where a leaf is an `nnx.Variable` that names them, else replicated."""

    def sharding(leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            return leaf.replace(NamedSharding(mesh, spec(leaf.get_metadata().get("axes", ()), rules)))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(sharding, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def map_axes(function: Callable[[Any, tuple[str | None, ...]], Any], tree: Any) -> Any:
    """`tree` with `function(leaf, its logical axes)` in place of each leaf; who names none has None per dimension."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.Variable):
            return function(leaf, (None,) * leaf.ndim)
        value = leaf.get_raw_value()
        return leaf.replace(function(value, leaf.get_metadata().get("axes") or (None,) * value.ndim))

    return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def pin(tree: Any, mesh: Mesh, rules: Any = RULES) -> Any:
    """`tree` laid out by `shardings`, inside a compiled function: the compiler would otherwise choose."""
    return jax.lax.with_sharding_constraint(tree, shardings(tree, mesh, rules))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` laid out by its logical axes under the mesh of `jax.set_mesh`; `x` itself where there is none.

    A dimension that its mesh axes do not divide (a batch of one prompt, say) is left whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x

    return jax.lax.with_sharding_constraint(x, layout(mesh, x.shape, axes))


def cast(x: jax.Array, dtype: Any, *axes: str | None) -> jax.Array:
    """A parameter with these logical axes in another dtype, made where its parts lie: what is gathered afterwards is
    the smaller one. Left to itself the compiler would as soon gather first and round then."""
    return x if x.dtype == dtype else constrain(x.astype(dtype), *axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """A parameter as a product needs it: whole along what only saves memory (`embed`), and its gradient split again.

    Said once, it is gathered once for a forward pass and once for a backward one. Left to itself the compiler gathers
    some matrices three times and adds up products of parts of others, which is more to send.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, layout(mesh, x.shape, axes, WHOLE))


gathered.defvjp(lambda x, axes: (gathered(x, axes), None), lambda axes, _, gradient: (constrain(gradient, *axes),))


def check_layout(
    model: ModelConfig, mesh: Mesh | MeshConfig, micro_batch_size: int | None = None, length: int | None = None
) -> None:
    """Refuses, in one sentence, a mesh that cannot hold this model or split this batch evenly. Raises UserError.

    Axes that are -1 in a MeshConfig are not known yet and are not checked; check the mesh itself once it exists.
    """
    sizes = dict(mesh.shape) if isinstance(mesh, Mesh) else mesh.sizes
    dimensions = {
        "model.num_heads": (model.num_heads, "heads"),
        "model.num_kv_heads": (model.num_kv_heads, "kv_heads"),
        "model.intermediate_size": (model.intermediate_size, "mlp"),
        "model.vocab_size": (model.vocab_size, "vocab"),
        "model.hidden_size": (model.hidden_size, "embed"),
        "model.num_layers (those that repeat)": (model.num_layers - model.leading_layers, "layers"),
    }
    if model.num_experts:
        dimensions["model.num_experts"] = (model.num_experts, "experts")
        dimensions["model.routing.expert_size"] = (model.routing.expert_size or model.intermediate_size, "mlp")
        dimensions["model.routing.shared_size"] = (model.routing.shared_size, "mlp")
    if latent := model.latent_attention:
        dimensions["model.latent_attention.rank"] = (latent.rank, "embed")
        dimensions["model.latent_attention.query_rank"] = (latent.query_rank or model.hidden_size, "embed")
    if micro_batch_size is not None:
        dimensions["data.batch_size / train.accumulation_steps"] = (micro_batch_size, "batch")
    for setting, (size, axis) in dimensions.items():
        names = [name for name in mesh_axes(RULES[axis]) if sizes[name] != 1]
        parts = math.prod(sizes[name] for name in names)
        if parts > 0 and size % parts:
            product = " x ".join(f"mesh.{name}" for name in names)
            raise UserError(
                f"{setting} {size} is not divisible by {product} = {parts}; choose {product} among its divisors"
            )
    if model.architecture == "encoder_decoder" and (
        axis := next((a for a in ("stage", "context") if sizes[a] > 1), None)
    ):
        raise UserError(
            f"model.architecture encoder_decoder: two stacks cannot be spread over mesh.{axis} = {sizes[axis]}; use "
            f"mesh.{axis}=1, and fsdp or tensor instead"
        )
    if sizes["context"] > 1 and (model.dual_chunk or model.positions in ("alibi", "relative", "disentangled")):
        setting = "model.dual_chunk" if model.dual_chunk else f"model.positions {model.positions}"
        raise UserError(
            f"{setting}: its scores cannot be computed of rows spread over mesh.context = {sizes['context']}; use "
            "mesh.context=1"
        )
    if sizes["context"] > 1 and model.labels and model.labels.pooling == "last":
        raise UserError(
            "model.labels.pooling last: where a text ends is not known of rows spread over mesh.context = "
            f"{sizes['context']}; use mesh.context=1"
        )
    if length is not None and sizes["context"] > 1 and length % (2 * sizes["context"]):
        raise UserError(
            f"data.sequence_length {length} is not divisible by 2 x mesh.context = {2 * sizes['context']}; every "
            "device takes one stretch from a row's beginning and one from its end"
        )


def on_each_device(
    function: Callable[..., Any], inputs: tuple[tuple[str | None, ...], ...], output: tuple[str | None, ...]
) -> Callable[..., jax.Array]:
    """`function` run by each device on the part it holds of arrays laid out by the logical axes `inputs`.

    Only for a function that is the same on parts as on the whole, along every axis that is split. The output has the
    first input's shape.
    """

    def run(*arrays: jax.Array) -> jax.Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return function(*arrays)
        parts = tuple(layout(mesh, x.shape, axes) for x, axes in zip(arrays, inputs, strict=True))
        whole = layout(mesh, arrays[0].shape, output)
        return jax.shard_map(function, in_specs=parts, out_specs=whole, check_vma=False)(*arrays)

    return run


def layout(mesh: Any, shape: tuple[int, ...], axes: tuple[str | None, ...], rules: Any = RULES) -> PartitionSpec:
    """`spec(axes, rules)`, with None for a dimension that its mesh axes do not divide.

    Inside a `jax.shard_map` over some axes (copies of the model whose gradients are added up by hand) those are left
    out: each device sees its own part already.
    """

    def part(size: int, entry: Any) -> Any:
        names = tuple(name for name in mesh_axes(entry) if name not in mesh.manual_axes)
        divides = size % math.prod(mesh.shape[name] for name in names) == 0
        return (names if len(names) > 1 else names[0]) if names and divides else None

    return PartitionSpec(*(part(size, entry) for size, entry in zip(shape, spec(axes, rules), strict=True)))


def mesh_axes(*entries: Any) -> tuple[str, ...]:
    """The names in a PartitionSpec's entries: each is a name, a tuple of names, or None."""
    return tuple(name for entry in entries for name in ((entry,) if isinstance(entry, str) else entry or ()))
