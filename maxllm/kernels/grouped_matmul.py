"""Rows that lie sorted by group, each group times a matrix of its own: the product of a mixture of experts.

`jax.lax.ragged_dot` says this in one word, but a GPU's compiler has no kernel for it, and a TPU's none for the gradient
of the matrices: it becomes one product over all groups with the foreign rows set to zero, `groups` times the work and,
on a GPU, as many copies of the rows. (Backward through the rows, a TPU also transposes all matrices first.) So:

  TPU    JAX's Pallas kernels after Megablocks (Gale et al. 2022), which skip the tiles that hold no row of a group.
  else   a loop over groups and blocks of rows, each an ordinary product of two matrices, which every library does well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from maxllm.parallel.target import platform

# Rows, inputs and outputs of a tile: the largest powers of two that fit in 16 MiB of scoped memory, and MaxText's.
TILE = (512, 1024, 1024)


@jax.custom_vjp
def grouped_matmul(x: jax.Array, w: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """Rows of `x` `[rows, inputs]` times their group's matrix in `w` `[groups, inputs, outputs]`: `[rows, outputs]`.

    The first `group_sizes[0]` rows are group 0's, the next `group_sizes[1]` group 1's and so on; int32 `[groups]`.
    Rows after the last group's cost nothing, and what comes out for them, and as their gradient, is undefined (it can
    be NaN): the caller must not look. Sums are float32, the result is of x's dtype. Under `vmap` the copies follow one
    another; split over a mesh axis (`spmd_axis_name`) and within `jax.shard_map`, each device has its own.
    """
    return _rows(x, w, group_sizes)


def _forward(x: jax.Array, w: jax.Array, group_sizes: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _rows(x, w, group_sizes), (x, w, group_sizes)


def _backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x, w, group_sizes = saved
    return _rows_transposed(gradient, w, group_sizes), _matrices(x, gradient, group_sizes), None


grouped_matmul.defvjp(_forward, _backward)


@sequential_vmap
def _rows(x: jax.Array, w: jax.Array, group_sizes: jax.Array) -> jax.Array:
    return (pallas_rows if platform() == "tpu" else loop_rows)(x, w, group_sizes)


@sequential_vmap
def _rows_transposed(y: jax.Array, w: jax.Array, group_sizes: jax.Array) -> jax.Array:
    return (pallas_rows if platform() == "tpu" else loop_rows)(y, w, group_sizes, transposed=True)


@sequential_vmap
def _matrices(x: jax.Array, y: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """Per group the sum over its rows of xᵀ y: `[groups, inputs, outputs]`, of y's dtype."""
    return (pallas_matrices if platform() == "tpu" else loop_matrices)(x, y, group_sizes)


# --- on a TPU. `interpret`: run the kernel where there is none, slowly. The kernels' module registers lowerings for
# TPUs when it is imported: only where it is used.


def pallas_rows(
    x: jax.Array, w: jax.Array, group_sizes: jax.Array, *, transposed: bool = False, interpret: bool = False
) -> jax.Array:
    """The product, by each matrix or by its transpose."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm

    (padded,), rows = _tiled(x)
    inputs, outputs = w.shape[1:][:: -1 if transposed else 1]
    tiling = (rows, min(TILE[1], inputs), min(TILE[2], outputs))
    options = {"preferred_element_type": x.dtype, "tiling": tiling, "interpret": interpret}
    return gmm(padded, w, group_sizes, transpose_rhs=transposed, **options)[: x.shape[0]]


def pallas_matrices(x: jax.Array, y: jax.Array, group_sizes: jax.Array, *, interpret: bool = False) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    (x, y), rows = _tiled(x, y)
    tiling = (rows, min(TILE[1], x.shape[1]), min(TILE[2], y.shape[1]))
    return tgmm(x.T, y, group_sizes, preferred_element_type=y.dtype, tiling=tiling, interpret=interpret)


def _tiled(*arrays: jax.Array) -> tuple[list[jax.Array], int]:
    """The arrays with a number of rows that a tile's divides, and that number. A tile has at least a register's 16."""
    rows = max(16, math.gcd(len(arrays[0]), TILE[0]))
    short = -len(arrays[0]) % rows
    return [jnp.pad(x, ((0, short), (0, 0))) if short else x for x in arrays], rows


# --- anywhere


def loop_rows(x: jax.Array, w: jax.Array, group_sizes: jax.Array, *, transposed: bool = False) -> jax.Array:
    """The product, a block of one group's rows after another. Rows after the last group's come out as zeros.

    `transposed`: by each matrix's transpose. The transpose of all of `w` at once would be a copy of it.
    """

    def group(index: jax.Array, at: Callable[..., Any], out: jax.Array) -> jax.Array:
        matrix = w[index]  # copied once, not for every block

        def block(start: jax.Array, own: jax.Array, out: jax.Array) -> jax.Array:
            # The last block reaches into the next group's rows, or starts early to end with the last row.
            kept = jax.lax.dynamic_slice_in_dim(out, start, own.shape[0])
            by = matrix.T if transposed else matrix
            product = jnp.matmul(_slice(x, start, own), by, preferred_element_type=jnp.float32)
            return jax.lax.dynamic_update_slice_in_dim(out, jnp.where(own, product.astype(out.dtype), kept), start, 0)

        return at(block, out)

    outputs = w.shape[1] if transposed else w.shape[2]
    return _over_groups(group, group_sizes, x.shape[0], jnp.zeros((x.shape[0], outputs), x.dtype))


def loop_matrices(x: jax.Array, y: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """`_matrices`, a block of one group's rows after another."""

    def group(index: jax.Array, at: Callable[..., Any], out: jax.Array) -> jax.Array:
        def block(start: jax.Array, own: jax.Array, sums: jax.Array) -> jax.Array:
            rows, others = (jnp.where(own, _slice(a, start, own), 0) for a in (x, y))
            return sums + jnp.matmul(rows.T, others, preferred_element_type=jnp.float32)

        return out.at[index].set(at(block, jnp.zeros(out.shape[1:], jnp.float32)).astype(out.dtype))

    shape = (group_sizes.shape[0], x.shape[1], y.shape[1])
    return _over_groups(group, group_sizes, x.shape[0], jnp.zeros(shape, y.dtype))


def _over_groups(group: Callable[..., jax.Array], group_sizes: jax.Array, rows: int, out: jax.Array) -> jax.Array:
    """`out` after `group(index, at, out)` for each group that has rows.

    `at(block, value)` is `value` after `block(start, own, value)` for each block of the group's rows: `own`
    `[block, 1]` says which of the rows from `start` are the group's and in no earlier block.
    """
    size = block_size(rows, group_sizes.shape[0])
    ends = jnp.cumsum(group_sizes)
    filled = jnp.argsort(group_sizes == 0)  # stable: the groups with rows, in order, first

    def one(number: jax.Array, out: jax.Array) -> jax.Array:
        index = filled[number]
        begin, end = ends[index] - group_sizes[index], ends[index]

        def at(block: Callable[..., jax.Array], value: jax.Array) -> jax.Array:
            def step(number: jax.Array, value: jax.Array) -> jax.Array:
                first = begin + number * size
                start = jnp.minimum(first, rows - size)
                place = start + jnp.arange(size)[:, None]
                return block(start, (place >= first) & (place < end), value)

            return jax.lax.fori_loop(0, -(-group_sizes[index] // size), step, value)

        return group(index, at, out)

    return jax.lax.fori_loop(0, jnp.count_nonzero(group_sizes), one, out)


def _slice(x: jax.Array, start: jax.Array, own: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, own.shape[0])


@functools.cache
def block_size(rows: int, groups: int) -> int:
    """Rows of a block: large products are fast ones, and on average half a block per group is wasted."""
    return min(rows, max(128, min(1024, 2 ** round(math.log2(max(1, rows / groups / 4))))))
