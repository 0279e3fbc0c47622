"""The device mesh, and a batch placed on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.config.errors import UserError
from maxllm.config.parallel import AXES, MeshConfig
from maxllm.parallel.rules import RULES, mesh_axes, spec
from maxllm.parallel.sequence import balanced


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of them), every axis left to the compiler.

    `tensor` is the innermost axis, so that its neighbours are the closest devices.
    Raises UserError if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    fixed = math.prod(size for size in config.sizes.values() if size != -1)
    fill, remainder = divmod(len(devices), fixed)
    sizes = {axis: fill if size == -1 else size for axis, size in config.sizes.items()}
    if remainder or math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{axis}={size}" for axis, size in config.sizes.items() if size != 1) or "one device"
        raise UserError(
            f"mesh: {asked} does not cover the {len(devices)} devices JAX sees here; "
            "set one axis to -1 to give it what is left, or make their product the number of devices"
        )
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # 8 x 8 on a slice of 4x4x4: an axis takes one side and half of another
        shape = tuple(sizes.values())
        return Mesh(
            mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True), AXES, axis_types=types
        )


def single_device_mesh(device: jax.Device | None = None) -> Mesh:
    """The mesh of one device: what evaluation and serving on one machine use."""
    return make_mesh(MeshConfig(fsdp=1), [device or jax.local_devices()[0]])


class Feed(NamedTuple):
    """The share `index` of `count` of every batch's rows."""

    index: int
    count: int


def feed_of(mesh: Mesh, batch_size: int | None = None) -> Feed:
    """Which rows of every batch this process's devices hold.

    Processes that hold the same rows (where `tensor` spans hosts) get the same feed.
    Raises UserError where the rows are not one even stretch, or `batch_size` rows cannot be dealt out evenly.
    """
    axes = [axis for axis in mesh_axes(RULES["batch"]) if mesh.shape[axis] != 1]
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if batch_size is not None and batch_size % parts:
        product = " x ".join(f"mesh.{axis}" for axis in axes)
        raise UserError(f"data.batch_size {batch_size} is not divisible by {product} = {parts}")
    indices = NamedSharding(mesh, spec(("batch",))).addressable_devices_indices_map((parts,)).values()
    held = sorted({part for index in indices for part in range(*index[0].indices(parts))})
    count = parts // len(held)
    if held != list(range(held[0], held[0] + len(held))) or count * len(held) != parts or held[0] % len(held):
        raise UserError(
            f"mesh {dict(mesh.shape)}: the devices of process {jax.process_index()} do not hold one stretch of the "
            f"batch; let {' x '.join(axes)} be a multiple of the number of processes"
        )
    return Feed(held[0] // len(held), count)


def place_batch(batch: Batch | EncoderDecoderBatch, mesh: Mesh) -> Batch | EncoderDecoderBatch:
    """This host's NumPy rows `[batch / hosts, length]` as global arrays `[batch, length]` spread over the mesh.

    Over `context`, a row lies in the order of `sequence.balanced`: kernels that look along it know.
    """
    feed = feed_of(mesh)
    return jax.tree.map(lambda own: _place(np.asarray(own), feed, mesh), batch)


def _place(own: np.ndarray, feed: Feed, mesh: Mesh) -> jax.Array:
    along = "length" if own.shape[1] > 1 else None  # [batch, 1]: one number a row
    if along and mesh.shape["context"] > 1:
        own = own[:, balanced(own.shape[1], mesh.shape["context"])]
    sharding = NamedSharding(mesh, spec(("batch", along)))
    rows, first = own.shape[0] * feed.count, own.shape[0] * feed.index

    def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(rows)
        return own[start - first : stop - first, index[1]]

    return jax.make_array_from_callback((rows, own.shape[1]), sharding, part)
