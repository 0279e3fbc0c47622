"""What the backward pass finds of a layer's forward pass: kept on the device, fetched from the host, or computed again.

Intermediates go by the names that `checkpoint_name` gives them where they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from maxllm.config.errors import UserError

_ATTENTION = ("query", "key", "value", "attention", "attention_denominator")
_MATRIX_PRODUCTS = (*_ATTENTION, "attention_output", "mlp_gate", "mlp_up")
# What each value of compute.remat but "none" keeps, besides the layer's input.
REMAT: dict[str, tuple[str, ...]] = {
    "full": (),
    "attention": _ATTENTION,
    "dots": _MATRIX_PRODUCTS,
}
INPUT = "layer_input"  # always kept, unless it is sent to the host

Layer = Callable[[jax.Array, Any], Any]


def rematerialised(
    layer: Layer, remat: str, save: Sequence[str], offload: Sequence[str], x: jax.Array, layers: Any
) -> Layer:
    """`layer`, a function of its input and its parameters, run within a scan, keeping what it was told to.

    `remat`: a key of REMAT, or "none". `save`, `offload`: more names to keep, on the device and in the host's pinned
    memory. `x`, `layers`: what is to be scanned. Raises UserError for a name that the layer has not.
    """
    if remat == "none":  # kept is what the compiler likes
        return layer

    def named(x: jax.Array, parameters: Any) -> Any:
        return layer(checkpoint_name(x, INPUT), parameters)

    if save or offload:
        known = names_of(named, x, jax.tree.map(lambda leaf: leaf[0], layers))
        for setting, names in (("save", save), ("offload", offload)):
            if unknown := [name for name in names if name not in known]:
                raise UserError(
                    f"compute.{setting}: {unknown[0]} names nothing in this model's layers; "
                    f"the names are {', '.join(sorted(known))}"
                )
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[name for name in (*REMAT[remat], *save) if name not in offload],
        names_which_can_be_offloaded=list(offload),
        offload_src="device",
        offload_dst="pinned_host",
    )
    # Within a scan there is nothing for common-subexpression elimination to undo.
    return jax.checkpoint(named if INPUT in offload else layer, policy=policy, prevent_cse=False)


def names_of(function: Callable[..., Any], *arguments: Any) -> set[str]:
    """The names given to intermediates of `function` when it is differentiated."""
    traced = jax.make_jaxpr(lambda *arguments: jax.vjp(function, *arguments)[0])(*arguments)
    return set(_names(traced.jaxpr))


def _names(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "name":
            yield equation.params["name"]
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _names(inner)
