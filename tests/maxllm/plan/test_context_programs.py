"""What context parallelism sends, as the TPU's compiler has it."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from maxllm.config.parallel import MeshConfig
from maxllm.kernels.attention import attention
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.rules import spec
from maxllm.plan import targets
from maxllm.plan.machines import machine

AXES = ("batch", "length", "heads", None)


def compiled(method: str) -> str:
    """Attention of two packed rows of 8192 and its gradients, on eight times two chips."""
    on = machine("v5e-16")
    targets.environment(on)
    mesh = make_mesh(MeshConfig(fsdp=2, context=8), targets.devices(on))

    def array(dtype, *shape: int) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec(AXES[: len(shape)]))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(query, key, value, gradient, segment_ids):
        output, pull = jax.vjp(lambda *a: attention(*a, segment_ids=segment_ids, context=method), query, key, value)
        return output, *pull(gradient)

    query, key = array(jnp.bfloat16, 2, 8192, 8, 128), array(jnp.bfloat16, 2, 8192, 2, 128)
    with jax.set_mesh(mesh):
        return jax.jit(run).lower(query, key, key, query, array(jnp.int32, 2, 8192)).compile().as_text()


def count(text: str, operation: str) -> int:
    return len(re.findall(rf" {operation}(?:-start)?\(", text))


@pytest.mark.slow
def test_the_ring_sends_what_it_should_and_computes_meanwhile(libtpu: None) -> None:
    text = compiled("ring")
    # Keys and values: the first hop (the same forward and backward), then a loop's each way. Their gradients: a loop's,
    # the last one's, and home. The segment ids are gathered.
    assert count(text, "collective-permute") == 2 + 2 + 2 + 3 * 2
    assert count(text, "all-gather") == 1 and not count(text, "all-reduce")
    loops = 0
    for computation in text.split("\n\n"):
        order = re.findall(r" (collective-permute-start|collective-permute-done|while)\(", computation)
        if "collective-permute-start" in order and "ENTRY" not in computation:
            loops += 1
            sent, received = order.index("collective-permute-start"), order.index("collective-permute-done")
            assert sent < order.index("while") < received, order
    assert loops == 2  # forward and backward


@pytest.mark.slow
def test_gathering_gathers_keys_and_values_and_scatters_their_gradients(libtpu: None) -> None:
    text = compiled("all_gather")
    # Keys and values once: the compiler keeps them for the backward pass where nothing is rematerialised.
    assert count(text, "all-gather") == 3
    assert count(text, "all-reduce") + count(text, "reduce-scatter") == 2
