"""Pytrees as names and arrays: what a checkpoint stores, and how it knows what it reads back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join([prefix, *map(_key, path)] if prefix else map(_key, path)): leaf for path, leaf in leaves}


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def by_name(tree: Tree) -> dict[str, Any]:
    """Nested dictionaries of leaves: what is on disk does not depend on the classes that held them."""
    nested: dict[str, Any] = {}
    for name, leaf in flat(tree).items():
        *folders, last = name.split("/")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = leaf
    return nested


def like(target: Tree, found: dict[str, Any]) -> Tree:
    """`found`'s leaves in `target`'s classes."""
    leaves = flat(found)
    return jax.tree.unflatten(jax.tree.structure(target), [leaves[name] for name in flat(target)])


def abstract(tree: Tree) -> Tree:
    """Shapes, dtypes and shardings of `tree`: what `restore` wants as its target."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def fingerprints(trees: Mapping[str, Tree]) -> dict[str, int]:
    """A number per array, from every bit and its place; the same for any sharding or host count.

    sum over elements of bits * weight mod 2^32, the weight an odd number made from the element's indices: one
    changed element always changes the sum, and integer addition gives one answer in any order.
    """
    named = {name: leaf for tree in trees for name, leaf in flat(trees[tree], tree).items()}
    return {name: int(value) for name, value in jax.device_get(_fingerprint(named)).items()}


@jax.jit
def _fingerprint(named: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def one(array: jax.Array) -> jax.Array:
        if array.dtype == jnp.bool_:
            array = array.astype(jnp.uint8)
        width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
        bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32)
        weight = jnp.zeros(bits.shape, jnp.uint32)
        for axis in range(bits.ndim):
            weight = weight * jnp.uint32(2654435761) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        return jnp.sum(bits * (2 * weight + 1), dtype=jnp.uint32)

    return {name: one(array) for name, array in named.items()}
