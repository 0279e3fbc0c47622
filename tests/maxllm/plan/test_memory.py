"""A device's memory by kind, against bytes counted by hand."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from maxllm.config.load import resolve
from maxllm.config.train import TrainConfig
from maxllm.parallel.mesh import make_mesh
from maxllm.plan.estimate import estimate
from maxllm.plan.machines import machine
from maxllm.plan.memory import USABLE, bytes_per_device, fit, saved_activations, train_parts
from maxllm.plan.programs import train_arguments
from maxllm.plan.types import Memory

# 2 layers; embed 32, mlp 64, 4 heads of 8 over 2 kv heads, 48 words, untied.
MODEL = [
    "model.vocab_size=48",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.num_layers=2",
    "model.num_heads=4",
    "model.num_kv_heads=2",
    "model.max_positions=64",
    "data.sequence_length=64",
    "data.batch_size=16",
]
LAYER = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64  # query and output, key and value, the three of the MLP
NORMS = 2 * 2 * 32 + 32
MATRICES = 2 * LAYER + 2 * 48 * 32


def config(*overrides: str) -> TrainConfig:
    return resolve(TrainConfig, None, [*MODEL, *overrides]).config


@pytest.mark.parametrize("ways", [1, 8])
def test_parameters_moments_and_batch_are_the_bytes_one_counts_by_hand(ways: int) -> None:
    settings = config(f"mesh.fsdp={ways}")
    mesh = make_mesh(settings.mesh, jax.devices()[:ways])
    _, state, batch = train_arguments(settings, mesh)
    parts = {part.name: part for part in train_parts(settings, mesh, state, batch, None)}
    # float32, matrices split over fsdp, norms whole on every device
    assert parts["parameters"].bytes == 4 * (MATRICES // ways + NORMS)
    # Adam: two moments of each, and two counters (its own, the schedule's)
    assert parts["optimizer"].bytes == 2 * 4 * (MATRICES // ways + NORMS) + 2 * 4
    assert parts["batch"].bytes == 5 * 4 * 16 * 64 // ways
    assert parts["gradients"].bytes == parts["parameters"].bytes
    assert parts["temporaries"].bytes is None and parts["temporaries"].source == "unknown"


def test_a_tensor_axis_splits_what_the_rules_say() -> None:
    settings = config("mesh.fsdp=4", "mesh.tensor=2")
    mesh = make_mesh(settings.mesh, jax.devices())
    _, state, _ = train_arguments(settings, mesh)
    assert bytes_per_device(state.parameters) == 4 * (MATRICES // 8 + NORMS)


def test_saved_activations_are_what_remat_names() -> None:
    """Of 16 rows of 64 tokens in 2 micro-batches over fsdp=2 and tensor=2, in bfloat16."""
    mesh = {"data": 1, "stage": 1, "fsdp": 2, "expert": 1, "context": 1, "tensor": 2}
    shared = ["compute.dtype=bfloat16", "train.accumulation_steps=2", "mesh.fsdp=2", "mesh.tensor=2"]
    tokens = 16 * 64 // 2 // 2  # of a device
    layer_input = tokens * 32 * 2 // 2  # the residual stream is split over tensor (sequence parallel)
    attention = (tokens * (32 + 16 + 16 + 32) * 2 + tokens * 4 * 4) // 2  # q, k, v, output; float32 denominators
    dots = tokens * 32 * 2 + tokens * 2 * 64 * 2 // 2  # attention's output projection is whole; gate and up are split
    expected = {"full": layer_input, "attention": layer_input + attention, "dots": layer_input + attention + dots}
    for remat, per_layer in expected.items():
        assert saved_activations(config(f"compute.remat={remat}", *shared), mesh)[0] == 2 * per_layer, remat
    assert saved_activations(config("compute.remat=none", *shared), mesh)[0] is None
    both = tokens * 2 * 64 * 2 // 2
    saved = config("compute.remat=full", "compute.save=[mlp_gate,mlp_up]", *shared)
    assert saved_activations(saved, mesh)[0] == 2 * (layer_input + both)
    sent = config("compute.remat=full", "compute.offload=[layer_input]", *shared)
    assert saved_activations(sent, mesh)[0] == 0
    experts = ["model.num_experts=4", "model.experts_per_token=2", "model.routing.expert_size=16"]
    found = saved_activations(config("compute.remat=full", "compute.save=[mlp_gate,mlp_up]", *experts, *shared), mesh)
    assert found[0] == 2 * (layer_input + both * 2 * 16 // 64)
    assert (
        "moe, which is not counted"
        in saved_activations(config("compute.remat=full", "compute.save=[moe]", *shared), mesh)[1]
    )


def test_what_does_not_fit_is_said_with_the_margin_assumed() -> None:
    on = machine("v5e-4")
    usable = int(16 * 2**30 * USABLE)
    inside = Memory(arguments=usable - 10, outputs=5, aliased=5, temporaries=10, peak=usable)
    assert fit(inside, on).fits and fit(inside, on).margin == 0
    assert not fit(dataclasses.replace(inside, temporaries=11), on).fits
    assert not fit(inside, on, resident=1).fits
    assert fit(inside, machine("cpux4")).fits is None  # nobody knows


def test_the_estimate_is_a_bound_from_below() -> None:
    """8B on 256 chips: 16 bytes a parameter over the chips; and no step is faster than the chips' peak."""
    settings = resolve(TrainConfig, "models/llama3.1-8b", ["data.batch_size=256", "data.sequence_length=8192"]).config
    mesh = {"data": 1, "stage": 1, "fsdp": 256, "expert": 1, "context": 1, "tensor": 1}
    found = estimate(settings, mesh, machine("v5e-256"))
    assert 8.03e9 * 16 / 256 < found.memory < 1.3e9
    assert found.seconds is not None and found.seconds > 6 * 7.5e9 * 256 * 8192 / (256 * 197e12)
    assert estimate(settings, mesh, machine("cpux8")).seconds is None
