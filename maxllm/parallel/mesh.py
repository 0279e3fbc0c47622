"""The device mesh: axes `data`, `fsdp`, `tensor`, and a batch placed on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from maxllm.batch import Batch
from maxllm.config.errors import UserError
from maxllm.config.train import MeshConfig
from maxllm.parallel.rules import spec

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of them), every axis left to the compiler.

    `tensor` is the innermost axis, so that its neighbours are the closest devices.
    Raises UserError if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {axis: getattr(config, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    fill, remainder = divmod(len(devices), fixed)
    sizes = {axis: fill if size == -1 else size for axis, size in sizes.items()}
    if remainder or math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
        raise UserError(
            f"mesh: {asked} does not cover the {len(devices)} devices JAX sees here; "
            "set one axis to -1 to give it what is left, or make their product the number of devices"
        )
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def single_device_mesh(device: jax.Device | None = None) -> Mesh:
    """The mesh of one device: what evaluation and serving on one machine use."""
    return make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), [device or jax.local_devices()[0]])


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """This host's NumPy rows `[batch / hosts, length]` as global arrays `[batch, length]` spread over the mesh."""
    sharding = NamedSharding(mesh, spec(("batch", "length")))
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch)
