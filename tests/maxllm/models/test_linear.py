"""A matrix between named axes: one product of two matrices, or of rows and lengths kept apart, is the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maxllm.config.parallel import MeshConfig
from maxllm.models import linear
from maxllm.parallel import sequence
from maxllm.parallel.mesh import make_mesh


@pytest.mark.parametrize("mesh", [{"fsdp": 4, "tensor": 2}, {"fsdp": 2, "context": 2, "tensor": 2}])
def test_rows_and_lengths_apart_are_the_product_and_the_gradients_of_both_as_one(monkeypatch, mesh):
    x = jax.random.normal(jax.random.key(0), (4, 16, 8))
    layer = linear.Linear({"embed": 8}, {"heads": 2, "head_dim": 6}, bias=True, std=0.3, rngs=nnx.Rngs(0))
    structure, parameters = nnx.split(layer)

    def both(x, parameters):
        y, back = jax.vjp(lambda x, p: nnx.merge(structure, p)(x), x, parameters)
        return y, back(jnp.sin(y))

    def answer(apart: bool):
        monkeypatch.setattr(linear, "one_row_each", lambda shape: apart)
        with jax.set_mesh(make_mesh(MeshConfig(**mesh), jax.devices())):
            return jax.jit(lambda *given: both(*given))(x, parameters)

    kernel, bias = layer.kernel[...], layer.bias[...]
    np.testing.assert_allclose(answer(True)[0], jnp.einsum("bld,dhk->blhk", x, kernel) + bias, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), answer(True), answer(False))


def test_where_a_device_has_one_row_of_a_length_split_over_tensor(monkeypatch):
    monkeypatch.setattr(sequence, "platform", lambda: "tpu")
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices())):
        assert sequence.one_row_each((4, 16)) and not sequence.one_row_each((8, 16))
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=8), jax.devices())):
        assert not sequence.one_row_each((8, 16))
    monkeypatch.setattr(sequence, "platform", lambda: "gpu")
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=4, tensor=2), jax.devices())):
        assert not sequence.one_row_each((4, 16))
