"""The chips' own compilers multiply in 8 bits where training asked for it."""

from __future__ import annotations

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import abstract
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh
from maxllm.plan.machines import machine
from maxllm.plan.targets import devices, environment
from maxllm.quant import quantized
from maxllm.train.state import abstract_state
from maxllm.train.step import make_train_step

pytestmark = pytest.mark.slow
MODEL = ModelConfig(
    vocab_size=2048,
    hidden_size=512,
    intermediate_size=1024,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    max_positions=512,
)
E4M3, E5M2 = "f8e4m3fn", "f8e5m2"


def factors(name: str, precision: str) -> Counter[tuple[str | None, ...]]:
    """Types of the factors of every product in the compiled train step."""
    try:
        environment(machine(name))
        mesh = make_mesh(MeshConfig(), devices(machine(name)))
    except UserError as error:
        pytest.skip(f"the compiler for {name} is absent, {precision} was NOT compiled for it: {error}")
    compute = ComputeConfig(precision=precision, attention="reference", remat="full")
    structure, parameters = abstract(MODEL, compute)
    structure, memory = quantized(structure, parameters, compute)
    optimizer = make_optimizer(OptimizerConfig(), ScheduleConfig(), 10)
    state = abstract_state(parameters, optimizer, mesh, scaling=memory)
    layout = NamedSharding(mesh, PartitionSpec(("data", "fsdp", "expert")))
    rows = [jax.ShapeDtypeStruct((8, 512), dtype, sharding=layout) for dtype in (jnp.int32,) * 4 + (jnp.float32,)]
    text = make_train_step(structure, causal_lm, optimizer, mesh).lower(state, Batch(*rows)).compile().as_text()
    types = dict(re.findall(r"(%[\w.\-]+) = ([a-z0-9]+)\[", text))
    # A TPU's products are convolutions.
    found = re.findall(r"= [a-z0-9]+\[[^\n]*? (?:dot|convolution)\(([^)]*)\)", text)
    return Counter(tuple(types.get(operand.split()[-1]) for operand in operands.split(",")[:2]) for operands in found)


@pytest.mark.parametrize("name, precision", [("h200x8", "fp8"), ("h200x8", "fp8_delayed"), ("tpu7x-8", "fp8_delayed")])
def test_fp8_products_are_in_fp8(name, precision):
    found = factors(name, precision)
    # Seven forward, once more where they are computed again; and with each gradient, whichever factor stands first.
    assert found[E4M3, E4M3] >= 7
    assert found[E5M2, E4M3] + found[E4M3, E5M2] >= 14


@pytest.mark.parametrize("name", ["v5e-8", "v6e-8"])
def test_int8_products_are_in_int8(name):
    found = factors(name, "int8")
    assert found["s8", "s8"] >= 14
