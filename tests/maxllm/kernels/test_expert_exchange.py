"""Rows travel to their experts' owners and back: who sends what where, and that the way back is the transpose."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from maxllm.config.parallel import MeshConfig
from maxllm.kernels import expert_exchange
from maxllm.kernels.expert_exchange import from_owners, take_rows, to_owners
from maxllm.parallel.mesh import make_mesh

DEVICES, EXPERTS, ROWS, RECEIVED = 4, 8, 12, 40
SIZES = np.random.default_rng(1).multinomial(ROWS - 2, np.arange(1, EXPERTS + 1) / 36, DEVICES).astype(np.int32)


def on_four_devices(function, *arrays):
    """`function` by each device on its row of the arrays."""
    mesh = make_mesh(MeshConfig(expert=DEVICES, fsdp=1), jax.devices()[:DEVICES])

    def own(*arrays):
        return jax.tree.map(lambda out: out[None], function(*(x[0] for x in arrays)))

    with jax.set_mesh(mesh):
        mapped = jax.shard_map(own, in_specs=P("expert"), out_specs=P("expert"), check_vma=False)
        return jax.device_get(jax.jit(mapped)(*arrays))


def labelled():
    """Rows `[devices, rows, 2]` of (device, expert), sorted by expert; the last two of each belong to none: -1."""
    experts = [np.append(np.repeat(np.arange(EXPERTS), sizes), [-1, -1]) for sizes in SIZES]
    return np.stack([np.stack([np.full(ROWS, d), e], 1) for d, e in enumerate(experts)]).astype(np.float32)


def arrived():
    """What each owner should hold: its experts in order, each with the devices in order, then zeros."""
    every = labelled()
    out = np.zeros((DEVICES, RECEIVED, 2), np.float32)
    for owner in range(DEVICES):
        mine = [every[d][every[d][:, 1] == e] for e in (2 * owner, 2 * owner + 1) for d in range(DEVICES)]
        rows = np.concatenate(mine)
        out[owner, : len(rows)] = rows
    return out


def test_owners_receive_their_rows_by_expert_and_device_and_send_them_home():
    def there_and_back(x):
        received = to_owners(x, jnp.array(SIZES), RECEIVED)
        return received, from_owners(received, jnp.array(SIZES), ROWS)

    received, home = on_four_devices(there_and_back, labelled())
    np.testing.assert_array_equal(received, arrived())
    sent = labelled()
    sent[:, -2:] = 0
    np.testing.assert_array_equal(home, sent)


def test_the_gradient_of_one_way_is_the_other():
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(DEVICES, ROWS, 3)), generator.normal(size=(DEVICES, RECEIVED, 3))

    def transposes(x, y):
        to = jax.vjp(lambda x: to_owners(x, jnp.array(SIZES), RECEIVED), x)[1](y)[0]
        back = jax.vjp(lambda y: from_owners(y, jnp.array(SIZES), ROWS), y)[1](x)[0]
        return to - from_owners(y, jnp.array(SIZES), ROWS), back - to_owners(x, jnp.array(SIZES), RECEIVED)

    assert all((difference == 0).all() for difference in on_four_devices(transposes, x, y))


def test_the_ragged_exchange_of_accelerators_is_told_the_same():
    """What `jax.lax.ragged_all_to_all` documents, followed by hand with the arguments that it would get."""
    here = np.arange(DEVICES)[:, None]
    for way, source, rows in (("_there", labelled(), RECEIVED), ("_back", arrived(), ROWS)):
        chunks = on_four_devices(lambda _, way=way: tuple(getattr(expert_exchange, way)(jnp.array(SIZES))), here)
        starts, sizes, places, received = chunks
        out = np.zeros((DEVICES, rows, 2), np.float32)
        for sender, receiver, chunk in np.ndindex(*starts.shape):
            size = sizes[sender, receiver, chunk]
            assert size == received[receiver, sender, chunk]
            start, place = starts[sender, receiver, chunk], places[sender, receiver, chunk]
            out[receiver, place : place + size] = source[sender, start : start + size]
        want = labelled() * (labelled()[..., 1:] >= 0) if way == "_back" else arrived()
        np.testing.assert_array_equal(out, want)


def test_taking_rows_and_its_gradient_are_lookups():
    x = np.arange(6.0).reshape(3, 2)
    index = jnp.array([2, 0, 3, 2])  # 3: no row
    back = jnp.array([[1, 4], [4, 4], [0, 3]])  # 4: nowhere
    out, transpose = jax.vjp(lambda x: take_rows(x, index, back), jnp.array(x))
    np.testing.assert_array_equal(out, [[4, 5], [0, 1], [0, 0], [4, 5]])
    (gradient,) = transpose(jnp.array([[1.0, 10], [2, 20], [9, 9], [3, 30]]))
    np.testing.assert_array_equal(gradient, [[2, 20], [0, 0], [4, 40]])
