"""Parameters read straight into their places on a mesh, and written from there, with little of the model on the host.

What the host holds at a time while reading: one block of one device's shard (the whole shard where it is at most
`BLOCK` bytes, else one layer's part of it, or one expert's), and the tensors that it is made of while they are copied.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from maxllm.convert.safetensors_io import TensorFolder
from maxllm.convert.tensors import Shape, TensorMap

BLOCK = 1 << 28  # bytes
Ranges = tuple[tuple[int, int], ...]  # begin and end along each axis


def read_parameter(folder: TensorFolder, mapping: TensorMap, path: str, dtype: Any, sharding: Sharding) -> jax.Array:
    """Our parameter in `dtype`, laid out by `sharding`; this process reads what its own devices hold."""
    shape, dtype = mapping.shapes[path], jnp.dtype(dtype)
    devices: dict[Ranges, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        ranges = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        devices.setdefault(ranges, []).append(device)
    shards = []
    for ranges, holders in devices.items():
        first = _read_shard(folder, mapping, path, dtype, ranges, holders[0])
        shards += [first, *(jax.device_put(first, device) for device in holders[1:])]
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _read_shard(
    folder: TensorFolder, mapping: TensorMap, path: str, dtype: np.dtype, ranges: Ranges, device: jax.Device
) -> jax.Array:
    blocks = list(_blocks(ranges, len(mapping.leading(path)), dtype.itemsize))
    if len(blocks) == 1:
        return jax.device_put(_read_block(folder, mapping, path, dtype, ranges), device).block_until_ready()
    shape = tuple(end - begin for begin, end in ranges)
    zeros = jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=SingleDeviceSharding(device))
    shard = zeros()  # made there, not here
    for block in blocks:
        part = jax.device_put(_read_block(folder, mapping, path, dtype, block), device)
        start = [begin - base for (begin, _), (base, _) in zip(block, ranges, strict=True)]
        shard = _put(shard, part, jnp.asarray(start, jnp.int32))
        shard.block_until_ready()  # else blocks pile up on the host, waiting for their turn
    return shard


@functools.partial(jax.jit, donate_argnums=0)
def _put(shard: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(shard, part, tuple(start))


def _blocks(ranges: Ranges, leading: int, itemsize: int, axis: int = 0) -> Iterator[Ranges]:
    """`ranges`, cut along leading axes, one number at a time, until a block has at most BLOCK bytes."""
    if axis == leading or itemsize * math.prod(end - begin for begin, end in ranges) <= BLOCK:
        yield ranges
        return
    for number in range(*ranges[axis]):
        yield from _blocks((*ranges[:axis], (number, number + 1), *ranges[axis + 1 :]), leading, itemsize, axis + 1)


def _read_block(folder: TensorFolder, mapping: TensorMap, path: str, dtype: np.dtype, ranges: Ranges) -> np.ndarray:
    leading = len(mapping.leading(path))
    inner = tuple(slice(*part) for part in ranges[leading:])
    block = np.empty([end - begin for begin, end in ranges], dtype)
    for place in np.ndindex(block.shape[:leading]):
        index = tuple(int(number) + begin for number, (begin, _) in zip(place, ranges, strict=False))
        home = mapping.homes[path][index]
        name = home[0].name
        block[place] = mapping.to_ours(folder.read(name, mapping.shape(name)), home)[inner]
    return block


def read_part(array: jax.Array, index: tuple[int, ...]) -> np.ndarray:
    """`array[index]` on the host, put together from the devices that hold it."""
    part: Shape = array.shape[len(index) :]
    whole = np.empty(part, array.dtype)
    seen = set()
    for shard in array.addressable_shards:
        ranges = tuple(cut.indices(size)[:2] for cut, size in zip(shard.index, array.shape, strict=True))
        holds = all(begin <= number < end for number, (begin, end) in zip(index, ranges, strict=False))
        if not holds or ranges in seen:
            continue
        seen.add(ranges)
        own = tuple(number - begin for number, (begin, _) in zip(index, ranges, strict=False))
        data = shard.data
        for number in own:
            data = jax.lax.dynamic_index_in_dim(data, number, keepdims=False)
        whole[tuple(slice(*r) for r in ranges[len(index) :])] = np.asarray(data)
    return whole
