"""Exactly the layers' matrices are quantized, forward and backward, on every mesh and in micro-batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.models import abstract, create
from maxllm.objectives import causal_lm
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.parallel.rules import shardings
from maxllm.quant import after_step, join, quantized, split
from maxllm.train.step import accumulated_gradients

MODEL = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=16
)
E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
PRODUCTS = 7  # query, key, value, output, gate, up, down: once, in the body of the scan over layers


def compute(precision: str, **changes) -> ComputeConfig:
    return ComputeConfig(**{"dtype": "float32", "attention": "reference", "precision": precision, **changes})


def batch(rows: int = 8) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 64, (rows, 17)).astype(np.int32)
    positions = np.tile(np.arange(16, dtype=np.int32), (rows, 1))
    return Batch(tokens[:, :-1], tokens[:, 1:], np.ones_like(positions), positions, np.ones((rows, 16), np.float32))


def gradients(config: ComputeConfig, micro_batches: int = 1, **mesh: int):
    """Of the parameters, by name; and what the products remember after a step and a second one."""
    devices = jax.devices()[: int(np.prod(list(mesh.values()) or [1]))]
    place = make_mesh(MeshConfig(**{"fsdp": 1, **mesh}), devices)
    structure, parameters = nnx.split(create(MODEL, config, place, seed=0))
    structure, memory = quantized(structure, parameters, config)
    memory = jax.device_put(memory, shardings(memory, place))

    @jax.jit
    def step(memory):
        found, _ = accumulated_gradients(
            structure, causal_lm, join(parameters, memory), place_batch(batch(), place), micro_batches
        )
        found, met = split(found)
        return found, after_step(memory, met)

    with jax.set_mesh(place):
        _, memory = step(memory)
        found, memory = step(memory)
    named = {".".join(path): np.asarray(value[...]) for path, value in nnx.to_flat_state(found)}
    return named, [np.asarray(leaf) for leaf in jax.tree.leaves(memory)]


def difference(got, want):
    return max(np.linalg.norm(got[name] - want[name]) / np.linalg.norm(want[name]) for name in want)


def equations(jaxpr) -> Iterator[Any]:
    """Of a jaxpr and all that are within it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize(
    "precision, kinds",
    [
        ("fp8", {(E4M3, E4M3): PRODUCTS, (E5M2, E4M3): PRODUCTS, (E4M3, E5M2): PRODUCTS}),
        ("int8", {("int8", "int8"): 2 * PRODUCTS}),
    ],
)
def test_seven_products_and_no_others_are_quantized(precision, kinds):
    config = compute(precision)
    structure, shapes = abstract(MODEL, config)
    structure, memory = quantized(structure, shapes, config)

    def gradient(parameters):
        return accumulated_gradients(structure, causal_lm, join(parameters, memory), batch(), 1)

    found = Counter(
        tuple(factor.aval.dtype.name for factor in equation.invars)
        for equation in equations(jax.make_jaxpr(gradient)(shapes).jaxpr)
        if equation.primitive.name == "dot_general"
    )
    narrow = {pair: count for pair, count in found.items() if {E4M3, E5M2, "int8"} & set(pair)}
    assert narrow == kinds and sum(found.values()) > sum(kinds.values())


@pytest.mark.parametrize(
    "precision", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("fp8", "int8")), "fp8_delayed"]
)
def test_micro_batches_and_meshes_give_the_gradients_and_the_scales_of_one_device(precision):
    want, memory = gradients(compute(precision))
    micro_batches = 1 if precision == "fp8" else 2  # a micro-batch's largest element is not the whole batch's
    got, memory_there = gradients(compute(precision, remat="full"), micro_batches, fsdp=2, tensor=2)
    assert difference(got, want) < 1e-5
    assert len(memory) == (PRODUCTS if precision == "fp8_delayed" else 0)
    for here, there in zip(memory, memory_there, strict=True):
        assert here.shape == there.shape == (2, 3, 256)
        # Micro-batches leave their own, smaller powers too; a scale asks for the largest.
        np.testing.assert_array_equal(largest(there), largest(here))


def largest(table):
    return np.where(table > 0, np.arange(256), 0).max(-1)


def test_a_rule_that_matches_nothing_is_refused_with_what_there_is():
    config = compute("fp8", precision_modules=["layers/mlp/.*", "layers/atention/.*"])
    with pytest.raises(UserError, match=r"'layers/atention/\.\*' matches no matrix product.* layers/attention/key, "):
        quantized(*abstract(MODEL, config), config)
    with pytest.raises(UserError, match="'head' matches no"):
        quantized(*abstract(MODEL, config), compute("fp8", precision_modules=["head"]))


def test_without_low_precision_nothing_is_touched():
    structure, shapes = abstract(MODEL, compute("none"))
    assert quantized(structure, shapes, compute("none")) == (structure, ())
