"""Ring attention: keys and values travel around the mesh axis `context` while queries stay (Liu et al. 2023).

At step t a device computes with the keys of the one t before it, and they are on their way to the next device
meanwhile. A row lies zig-zag (maxllm.parallel.sequence), so every step is the same work everywhere: at step 0 the two
causal triangles of a device's own stretches and the square between them, and then, of four squares, the two that
causality leaves, never half of one (the balance of Brandon et al. 2023, with stretches in place of stripes). Backward,
the gradients of keys and values travel with them, a step behind so that no device waits for them, and end at home.

Arrays have the two halves of a device first: `query` `[2, batch, kv_heads, rows, head_dim]`, `key` and `value`
`[2, batch, kv_heads, stretch, head_dim]`, `first` and `last` `[2, batch, stretch]`; see attention_pair.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxllm.kernels import attention_pair
from maxllm.kernels.attention_heads import along, named
from maxllm.kernels.masking import MASKED, Masking
from maxllm.parallel.sequence import pairs, steps, stretch_of

AXIS = "context"
Arrays = tuple[jax.Array, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def ring(
    query: jax.Array, key: jax.Array, value: jax.Array, first: jax.Array, last: jax.Array, masking: Masking
) -> jax.Array:
    """The output, like `query`. Inside a `shard_map` that is manual over `context`."""
    return _forward(query, key, value, first, last, masking)[0]


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, first: jax.Array, last: jax.Array, masking: Masking
) -> tuple[jax.Array, Arrays]:
    def absorb(state: Arrays, block: Arrays, step: Any) -> Arrays:
        def one(state: Arrays, pair: Arrays) -> tuple[Arrays, None]:
            mine, theirs, key_at = pair
            own = [_half(x, mine) for x in (query, first, last)]
            part = attention_pair.forward(own[0], *(_half(x, theirs) for x in block), *own[1:], key_at, masking)
            together = attention_pair.merged(tuple(_half(x, mine) for x in state), part)
            return tuple(_put(x, half, mine) for x, half in zip(state, together, strict=True)), None

        return jax.lax.scan(one, state, _pairs(step, key.shape[3], masking))[0]

    empty = (jnp.zeros(query.shape, jnp.float32), jnp.full(query.shape[:-1], MASKED))
    state = _around((key, value), empty, absorb, _runs(key.shape[3], masking))
    mixed, denominator = named(state[0].astype(query.dtype), state[1])
    return mixed, (query, key, value, first, last, mixed, denominator)


def _backward(masking: Masking, saved: Arrays, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    query, key, value, first, last, mixed, denominator = saved
    sums = along(mixed, gradient)

    def visit(gradients: tuple[jax.Array, Arrays], block: Arrays, step: Any) -> tuple[jax.Array, Arrays]:
        d_query, d_block = gradients
        # What the last device found for this block comes while this one computes.
        coming = d_block if isinstance(step, int) and step == 0 else _send(d_block, 1)

        def one(gradients: tuple[jax.Array, Arrays], pair: Arrays) -> tuple[tuple[jax.Array, Arrays], None]:
            d_query, found = gradients
            mine, theirs, key_at = pair
            own = [_half(x, mine) for x in (query, first, last, denominator, sums, gradient)]
            d_own, *parts = attention_pair.backward(
                own[0], *(_half(x, theirs) for x in block), *own[1:3], key_at, masking, *own[3:]
            )
            d_query = _put(d_query, _half(d_query, mine) + d_own, mine)
            found = tuple(_put(x, _half(x, theirs) + d, theirs) for x, d in zip(found, parts, strict=True))
            return (d_query, found), None

        empty = tuple(jnp.zeros(x.shape, jnp.float32) for x in block)
        (d_query, found), _ = jax.lax.scan(one, (d_query, empty), _pairs(step, key.shape[3], masking))
        return d_query, tuple(map(jnp.add, coming, found))

    def jump(gradients: tuple[jax.Array, Arrays], hops: int) -> tuple[jax.Array, Arrays]:
        return gradients[0], _send(gradients[1], hops)

    empty = tuple(jnp.zeros(x.shape, jnp.float32) for x in (query, key, value))
    runs = _runs(key.shape[3], masking)
    d_query, d_block = _around((key, value), (empty[0], empty[1:]), visit, runs, jump)
    d_key, d_value = _send(d_block, -runs[-1][-1])
    return d_query.astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype), None, None


ring.defvjp(_forward, _backward)


def _around(
    block: Arrays,
    carry: Any,
    visit: Callable[[Any, Arrays, Any], Any],
    runs: list[list[int]],
    jump: Callable[[Any, int], Any] = lambda carry, hops: carry,
) -> Any:
    """`visit(carry, block, step)` for each step of `runs`, the next block being sent before this one is visited.

    `jump(carry, hops)` is called before a run that leaves out as many steps.
    """

    def one(both: tuple[Arrays, Any], step: jax.Array) -> tuple[tuple[Arrays, Any], None]:
        block, carry = both
        coming = _send(block, 1)
        return (coming, visit(carry, block, step)), None

    at = 0
    for run, then in zip(runs, [*runs[1:], None], strict=True):
        if run[0] > at + 1:
            carry = jump(carry, run[0] - at - 1)
        if len(run) > 1:
            (block, carry), _ = jax.lax.scan(one, (block, carry), jnp.array(run[:-1], jnp.int32))
        coming = _send(block, then[0] - run[-1]) if then else block
        carry = visit(carry, block, run[-1])
        block, at = coming, run[-1]
    return carry


def _runs(stretch: int, masking: Masking) -> list[list[int]]:
    """The steps, cut where the next is not one hop away; step 0, which is of its own kind, alone."""
    needed = steps(jax.lax.axis_size(AXIS), stretch, masking.window)
    cuts = [i for i in range(1, len(needed)) if i == 1 or needed[i] != needed[i - 1] + 1]
    return [run.tolist() for run in np.split(np.array(needed), cuts)]


def _pairs(step: Any, stretch: int, masking: Masking) -> Arrays:
    """Of each pair the half of the queries, the half of the keys, and the index in the row of the first key: int32."""
    devices, device = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    owner = (device - step) % devices
    mine, theirs = (jnp.array(halves) for halves in zip(*pairs(device, step, masking.causal), strict=True))
    return mine, theirs, stretch_of(owner, theirs, devices) * stretch


def _send(arrays: Arrays, hops: int) -> Arrays:
    devices = jax.lax.axis_size(AXIS)
    to = [(device, (device + hops) % devices) for device in range(devices)]
    return tuple(jax.lax.ppermute(x, AXIS, to) for x in arrays)


def _half(x: jax.Array, half: Any) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, half, keepdims=False)


def _put(x: jax.Array, half_of_x: jax.Array, half: Any) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, half_of_x, half, 0)
