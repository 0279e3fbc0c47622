"""A scan over layers that take turns at being different."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Layer = Callable[[Any, Any], tuple[Any, Any]]  # (carry, one layer's own) -> (carry, output)


def scan_in_turns(turns: Sequence[Layer], layers: Any, carry: Any) -> tuple[Any, Any]:
    """As `jax.lax.scan` over the leading axis of `layers`, layer i by `turns[i % len(turns)]`.

    The compiler sees each turn once, and once more those of the last round if it is cut short.
    """
    if len(turns) == 1:
        return jax.lax.scan(turns[0], carry, layers)
    count = jax.tree.leaves(layers)[0].shape[0]
    whole = count - count % len(turns)

    def round_(carry: Any, own: Any) -> tuple[Any, Any]:
        outputs = []
        for number, layer in enumerate(turns):
            carry, output = layer(carry, jax.tree.map(lambda leaf, number=number: leaf[number], own))
            outputs.append(output)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    rounds = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, len(turns), *leaf.shape[1:]), layers)
    carry, outputs = jax.lax.scan(round_, carry, rounds)
    outputs = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)
    rest = []
    for number in range(whole, count):
        carry, output = turns[number - whole](carry, jax.tree.map(lambda leaf, number=number: leaf[number], layers))
        rest.append(output)
    return carry, jax.tree.map(
        lambda first, *more: jnp.concatenate([first, jnp.stack(more)]) if more else first, outputs, *rest
    )
