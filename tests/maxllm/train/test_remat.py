"""What the backward pass keeps goes by name, may live on the host, and changes no number."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pydantic import ValidationError

from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.models import abstract, create
from maxllm.models.remat import INPUT, names_of
from maxllm.parallel.mesh import single_device_mesh

MODEL = ModelConfig(
    vocab_size=32, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=2, max_positions=8
)
TOKENS = np.arange(16, dtype=np.int32).reshape(2, 8)
POSITIONS = np.tile(np.arange(8, dtype=np.int32), (2, 1))


def loss(structure, parameters):
    return (nnx.merge(structure, parameters)(TOKENS, POSITIONS) ** 2).mean()


def gradients(**compute):
    structure, _ = abstract(MODEL, ComputeConfig(dtype="float32", **compute))
    parameters = nnx.state(create(MODEL, ComputeConfig(), single_device_mesh(), 0))
    return jax.jit(jax.grad(functools.partial(loss, structure)))(parameters)


@pytest.mark.parametrize(
    "lists", [{"save": ["mlp_gate"]}, {"offload": [INPUT, "mlp_up"]}], ids=["saved", "on the host"]
)
def test_what_is_kept_and_where_changes_no_gradient(lists):
    want = gradients()
    got = gradients(remat="attention", **lists)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-9)


def test_only_what_is_named_is_kept():
    """The scan's residuals, as the program says: the input and the named product, and nothing else of their size."""
    structure, parameters = abstract(MODEL, ComputeConfig(dtype="float32", remat="full", save=["mlp_gate"]))
    residuals = jax.eval_shape(lambda p: jax.vjp(functools.partial(loss, structure), p)[1], parameters)
    shapes = [leaf.shape for leaf in jax.tree.leaves(residuals)]
    assert shapes.count((2, 2, 8, 24)) == 1  # [layers, batch, length, mlp]
    assert (2, 2, 8, 16) in shapes  # the layers' inputs
    assert (2, 2, 8, 2, 8) not in shapes  # queries, keys, values


def test_a_name_of_nothing_is_one_sentence():
    with pytest.raises(UserError, match="compute.save: mlp_gat names nothing.*attention_output, key, layer_input, mlp"):
        gradients(remat="full", save=["mlp_gat"])


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        ({"offload": ["query"]}, "offload needs remat full"),
        ({"remat": "full", "offload": ["query"], "save": ["query"]}, "query is both in save and in offload"),
    ],
)
def test_lists_that_contradict_the_rest_are_one_sentence(compute, message):
    with pytest.raises(ValidationError, match=message):
        ComputeConfig(**compute)


def test_names_are_found_within_what_calls_what():
    inner = jax.jit(lambda x: jax.ad_checkpoint.checkpoint_name(jnp.sin(x), "within"))
    assert names_of(lambda x: jax.lax.map(inner, x), jnp.ones(3)) == {"within"}
