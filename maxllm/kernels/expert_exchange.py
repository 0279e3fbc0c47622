"""Rows moved to where they are worked on: in one device's memory, and between the devices of the mesh axis `expert`.

Everything here is exact: no row is dropped, whatever the router chose. Each device of the axis owns an equal, adjacent
part of the experts. `sizes` int32 `[devices, experts]` says how many rows each device has for each expert; all of them
know it. A device's own rows lie sorted by expert; an owner receives them sorted by expert, then by device, so that
nothing has to be sorted again there.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maxllm.parallel.target import platform

AXIS = "expert"


@jax.custom_vjp
def take_rows(x: jax.Array, index: jax.Array, back: jax.Array) -> jax.Array:
    """Rows `index` `[m]` of `x` `[n, width]`, zeros where an index is n or more.

    `back` `[n, copies]` names the places to which each row goes, m or more where there is none. It makes the gradient
    a lookup too: the transpose that JAX would write is a scatter, slow on a TPU and without a fixed order on a GPU.
    """
    return x.at[index].get(mode="fill", fill_value=0)


def _take_forward(x: jax.Array, index: jax.Array, back: jax.Array) -> tuple[jax.Array, jax.Array]:
    return take_rows(x, index, back), back


def _take_backward(back: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None, None]:
    copies = gradient.at[back].get(mode="fill", fill_value=0)
    return copies.sum(axis=1, dtype=jnp.float32).astype(gradient.dtype), None, None


take_rows.defvjp(_take_forward, _take_backward)


def to_owners(x: jax.Array, sizes: jax.Array, rows: int) -> jax.Array:
    """This device's `x` `[n, width]` sent to the experts' owners: what this one receives, `[rows, width]`.

    `rows`: at least as many as may come. Past those that did come, zeros.
    """
    return _exchange(x, sizes, (x.shape[0], rows), True)


def from_owners(y: jax.Array, sizes: jax.Array, rows: int) -> jax.Array:
    """The way back. `rows`: as many as `x` had. Zeros in those that belong to no expert."""
    return _exchange(y, sizes, (y.shape[0], rows), False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _exchange(x: jax.Array, sizes: jax.Array, rows: tuple[int, int], there: bool) -> jax.Array:
    """`rows`: of what is held and of what comes out. Each way is the other's transpose."""
    return _move(x, rows[1], (_there if there else _back)(sizes))


def _exchange_forward(
    x: jax.Array, sizes: jax.Array, rows: tuple[int, int], there: bool
) -> tuple[jax.Array, jax.Array]:
    return _exchange(x, sizes, rows, there), sizes


def _exchange_backward(
    rows: tuple[int, int], there: bool, sizes: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, None]:
    return _exchange(gradient, sizes, rows[::-1], not there), None


_exchange.defvjp(_exchange_forward, _exchange_backward)


class _Chunks(NamedTuple):
    """What this device sends and receives, int32 `[devices, chunks]`: one chunk for each expert at the other end.

    `places`: where a chunk will lie in the rows of the device that receives it.
    """

    starts: jax.Array
    sizes: jax.Array
    places: jax.Array
    received: jax.Array


def _where(sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the rows of `sizes` `[devices, experts]` begin: at the device that has them, and at their owner."""
    devices, experts = sizes.shape
    at_device = jnp.cumsum(sizes, axis=1) - sizes
    by_owner = sizes.T.reshape(devices, -1)  # an owner's rows, by expert and then by device
    at_owner = (jnp.cumsum(by_owner, axis=1) - by_owner).reshape(experts, devices).T
    return at_device, at_owner


def _there(sizes: jax.Array) -> _Chunks:
    me, devices = jax.lax.axis_index(AXIS), sizes.shape[0]
    at_device, at_owner = _where(sizes)
    starts, sent, places = (x[me].reshape(devices, -1) for x in (at_device, sizes, at_owner))
    return _Chunks(starts, sent, places, sizes.reshape(devices, devices, -1)[:, me])


def _back(sizes: jax.Array) -> _Chunks:
    me, devices = jax.lax.axis_index(AXIS), sizes.shape[0]
    at_device, at_owner = _where(sizes)
    places, sent, starts = (x.reshape(devices, devices, -1)[:, me] for x in (at_device, sizes, at_owner))
    return _Chunks(starts, sent, places, sizes[me].reshape(devices, -1))


def _move(x: jax.Array, rows: int, chunks: _Chunks) -> jax.Array:
    out = jnp.zeros((rows, x.shape[1]), x.dtype)
    if platform() == "cpu":
        return _move_by_gathering(x, out, chunks)
    return jax.lax.ragged_all_to_all(
        x,
        out,
        chunks.starts.ravel(),
        chunks.sizes.ravel(),
        chunks.places.ravel(),
        chunks.received.ravel(),
        axis_name=AXIS,
    )


def _move_by_gathering(x: jax.Array, out: jax.Array, chunks: _Chunks) -> jax.Array:
    """The same where XLA has no ragged exchange: everything goes everywhere, and each device picks its own."""
    me = jax.lax.axis_index(AXIS)
    everything = jax.lax.all_gather(x, AXIS, tiled=True)
    starts, sizes, places, _ = (jax.lax.all_gather(part, AXIS)[:, me] for part in chunks)  # sent to me, by sender
    starts += jnp.arange(starts.shape[0], dtype=starts.dtype)[:, None] * x.shape[0]
    offset = jnp.arange(out.shape[0])[:, None, None] - places  # [rows, senders, chunks]
    source = jnp.where((offset >= 0) & (offset < sizes), starts + offset, -1).max(axis=(1, 2))
    return everything.at[jnp.where(source < 0, everything.shape[0], source)].get(mode="fill", fill_value=0)
