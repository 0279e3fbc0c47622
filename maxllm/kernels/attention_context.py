"""Attention of rows that are spread over the mesh axis `context`, in the order of maxllm.parallel.sequence.

Two roads to the same numbers: "ring" sends keys and values around (attention_ring.py); "all_gather" brings all of a
row's keys to every device, and adds their gradients up backward (a reduce-scatter). The same bytes travel. The ring
holds two devices' keys instead of all and sends while it computes; one gather is fewer and larger messages.
"""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from maxllm.config.errors import UserError
from maxllm.kernels import attention_pair
from maxllm.kernels.attention_heads import along, named
from maxllm.kernels.attention_ring import AXIS, Arrays, ring
from maxllm.kernels.masking import Masking, visible_range
from maxllm.parallel.rules import layout
from maxllm.parallel.sequence import stretches
from maxllm.parallel.target import platform

logger = logging.getLogger("maxllm.kernels.attention")


def context_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array | None, masking: Masking, method: str
) -> jax.Array:
    """As `kernels.attention.attention`, of arrays in zig-zag order under a mesh with `context` > 1.

    `method`: a key of METHODS. Raises UserError where the length cannot be dealt out.
    """
    mesh, length = jax.sharding.get_abstract_mesh(), query.shape[1]
    if length % (2 * mesh.shape[AXIS]):
        raise UserError(
            f"mesh.context {mesh.shape[AXIS]}: rows of {length} tokens cannot be cut into {2 * mesh.shape[AXIS]} equal "
            "stretches; use another sequence length, or mesh.context=1"
        )
    _say(method, mesh.shape[AXIS], length, platform())
    axes = [("batch", "length", "heads", None), *[("batch", "length", "kv_heads", None)] * 2, ("batch", "length")]
    arrays = [x for x in (query, key, value, segment_ids) if x is not None]
    parts = [layout(mesh, x.shape, its) for x, its in zip(arrays, axes, strict=False)]
    # Query and key heads stay together: where one cannot be split, neither is.
    if parts[0][2] != parts[1][2]:
        parts[:3] = [PartitionSpec(part[0], part[1], None, None) for part in parts[:3]]
    local = functools.partial(_local, masking=masking, method=method)
    return jax.shard_map(local, in_specs=tuple(parts), out_specs=parts[0], check_vma=False)(*arrays)


@functools.cache
def _say(method: str, devices: int, length: int, platform: str) -> None:
    logger.info(
        "attention: %s over context=%d on %s at length %d (plain JAX blocks)", method, devices, platform, length
    )


def _local(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None = None,
    *,
    masking: Masking,
    method: str,
) -> jax.Array:
    """What one device computes, of its two stretches `[batch, 2 · stretch, heads, head_dim]`."""
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]

    # [batch, 2 · stretch, kv_heads · n, head_dim] -> [2, batch, kv_heads, stretch · n, head_dim]
    def fold(x: jax.Array) -> jax.Array:
        x = x.reshape(batch, 2, length // 2, kv_heads, -1, head_dim).transpose(1, 0, 3, 2, 4, 5)
        return x.reshape(2, batch, kv_heads, -1, head_dim)

    scaled = (query.astype(jnp.float32) * masking.scale_for(head_dim)).astype(query.dtype)
    first, last = _own_range(masking, segment_ids, (batch, length))
    mixed = METHODS[method](fold(scaled), fold(key), fold(value), first, last, masking)
    mixed = mixed.reshape(2, batch, kv_heads, length // 2, -1, head_dim).transpose(1, 0, 3, 2, 4, 5)
    return mixed.reshape(batch, length, heads, head_dim)


def _own_range(masking: Masking, segment_ids: jax.Array | None, shape: tuple[int, int]) -> Arrays:
    """The first and the last key, indices in the row, of each query here: int32 `[2, batch, stretch]` each."""
    batch, length = shape
    order = stretches(jax.lax.axis_size(AXIS))
    if segment_ids is not None:
        halves = jax.lax.all_gather(segment_ids.reshape(batch, 2, length // 2), AXIS, axis=1, tiled=True)
        segment_ids = halves[:, np.argsort(order)].reshape(batch, -1)
    found = visible_range(masking, segment_ids, (batch, len(order) * length // 2))
    mine = jax.lax.dynamic_slice_in_dim(jnp.array(order), 2 * jax.lax.axis_index(AXIS), 2)
    return tuple(jnp.moveaxis(x.reshape(batch, len(order), -1)[:, mine], 1, 0) for x in found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def all_gather(
    query: jax.Array, key: jax.Array, value: jax.Array, first: jax.Array, last: jax.Array, masking: Masking
) -> jax.Array:
    """As `attention_ring.ring`."""
    return _forward(query, key, value, first, last, masking)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, first: jax.Array, last: jax.Array, masking: Masking
) -> tuple[jax.Array, Arrays]:
    keys, values = _whole(key), _whole(value)
    halves = [
        attention_pair.forward(query[half], keys, values, first[half], last[half], 0, masking) for half in range(2)
    ]
    mixed, denominator = (jnp.stack(both) for both in zip(*halves, strict=True))
    mixed, denominator = named(mixed.astype(query.dtype), denominator)
    return mixed, (query, key, value, first, last, mixed, denominator)


def _backward(masking: Masking, saved: Arrays, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, first, last, mixed, denominator = saved
    sums = along(mixed, gradient)
    keys, values = _whole(key), _whole(value)
    d_query, d_key, d_value = [], 0.0, 0.0
    for half in range(2):
        d, d_keys, d_values = attention_pair.backward(
            query[half],
            keys,
            values,
            first[half],
            last[half],
            0,
            masking,
            denominator[half],
            sums[half],
            gradient[half],
        )
        d_query.append(d.astype(query.dtype))
        d_key, d_value = d_key + d_keys, d_value + d_values
    return jnp.stack(d_query), _own(d_key).astype(key.dtype), _own(d_value).astype(value.dtype), None, None


all_gather.defvjp(_forward, _backward)

METHODS = {"ring": ring, "all_gather": all_gather}


def _whole(x: jax.Array) -> jax.Array:
    """All of the row, in its own order: `[2, batch, kv_heads, stretch, d]` -> `[batch, kv_heads, length, d]`."""
    everyone = jax.lax.all_gather(x, AXIS, axis=0, tiled=True)[np.argsort(stretches(jax.lax.axis_size(AXIS)))]
    everyone = jnp.moveaxis(everyone, 0, 2)
    return everyone.reshape(*everyone.shape[:2], -1, x.shape[-1])


def _own(x: jax.Array) -> jax.Array:
    """The sum over the devices of each one's part: what `_whole` is to gradients. Sent and added up as float32."""
    order = stretches(jax.lax.axis_size(AXIS))
    parts = jnp.moveaxis(x.reshape(*x.shape[:2], len(order), -1, x.shape[-1]), 2, 0)[order]
    return jax.lax.psum_scatter(parts, AXIS, scatter_dimension=0, tiled=True)
