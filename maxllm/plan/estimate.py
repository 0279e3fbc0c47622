"""What a layout needs at least, by formula, in microseconds instead of a compilation: what a search prunes with.

Bounds from below: what is ruled out here does not fit, or is slow, whatever the compiler does.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxllm.config.train import TrainConfig
from maxllm.models import count_parameters
from maxllm.plan.memory import saved_activations
from maxllm.plan.types import Machine
from maxllm.train.flops import flops_per_data_token

# Of the forward pass' matrix products, what the backward pass computes again.
_COMPUTED_AGAIN = {"none": 0.0, "dots": 0.1, "attention": 0.75, "full": 1.0}


# A search asks for the same model some hundred times, and each answer is an abstract evaluation.
_parameters = functools.lru_cache(count_parameters)
_flops: dict[tuple[Any, ...], float] = {}


@dataclass(frozen=True)
class Estimate:
    memory: int  # bytes on one device, at least
    seconds: float | None  # of a step, at least; None where the machine's speed is not known
    bound_by: str


def estimate(config: TrainConfig, mesh: Mapping[str, int], machine: Machine) -> Estimate:
    return Estimate(_memory(config, mesh), *_seconds(config, mesh, machine))


def _memory(config: TrainConfig, mesh: Mapping[str, int]) -> int:
    """float32 parameters and gradients, the moments, saved activations, and one layer's weights gathered."""
    model = config.model
    parameters = _parameters(model)
    ways = mesh["fsdp"] * mesh["expert"] * mesh["context"] * mesh["tensor"] * mesh["stage"]
    moment = 2 if config.optimizer.moments_dtype == "bfloat16" else 4
    whole = ways // (mesh["fsdp"] * mesh["expert"] * mesh["context"]) or 1
    split_parameters = ways if config.mesh.zero == 3 else whole
    split_gradients = whole if config.mesh.zero == 1 else ways
    state = parameters * (4 / ways + 2 * moment / ways + 4 / split_gradients)
    state += 0 if config.mesh.zero == 3 else parameters * 2 / split_parameters
    layer = (parameters - 2 * model.vocab_size * model.hidden_size) / model.num_layers
    gathered = 2 * layer / mesh["tensor"]
    return int(state + gathered + (saved_activations(config, mesh)[0] or 0))


def _seconds(config: TrainConfig, mesh: Mapping[str, int], machine: Machine) -> tuple[float | None, str]:
    """The larger of computing and sending: a ring sends (n - 1) / n of what it gathers or scatters."""
    peak = machine.peak_flops.get("bfloat16")
    if not peak or not machine.link_bandwidth:
        return None, "unknown"
    model, length = config.model, config.data.sequence_length
    tokens = config.data.batch_size * length
    again = 1 + _COMPUTED_AGAIN.get(config.compute.remat, 1.0) / 3
    if (asked := (model, config.objective, length)) not in _flops:
        _flops[asked] = flops_per_data_token(config, length)
    computing = _flops[asked] * tokens * again / (machine.devices * peak)
    if mesh["stage"] > 1:
        computing *= 1 + (mesh["stage"] - 1) / config.train.accumulation_steps  # the bubble
    over = mesh["fsdp"] * mesh["expert"] * mesh["context"]
    held = _parameters(model) / (mesh["tensor"] * mesh["stage"])
    # Gathered in bfloat16 for forward and backward of every micro-batch; gradients scattered likewise.
    times = config.train.accumulation_steps if config.mesh.zero == 3 else 1
    sharding = (over - 1) / over * held * 2 * 3 * times
    copies = (mesh["data"] - 1) / mesh["data"] * held / over * 4 * 2
    here = tokens / (machine.devices / mesh["tensor"] / mesh["stage"]) * model.hidden_size * 2
    # Two blocks a layer, each gathering its input and scattering its output, forward, backward and again.
    tensor = (mesh["tensor"] - 1) / mesh["tensor"] * here * 4 * (2 + again) * model.num_layers / mesh["stage"]
    inside = math.prod(mesh[axis] for axis in ("tensor", "context", "expert", "fsdp"))
    slow = machine.hosts > 1 and inside > machine.devices_per_host
    network = machine.network_bandwidth or machine.link_bandwidth
    # A group that spans hosts sends into each host once, through all of its devices' cards.
    across = sharding * machine.hosts / machine.devices if slow else 0.0
    link = (tensor + sharding - across) / machine.link_bandwidth
    wide = (across + (copies if machine.hosts > 1 else 0.0)) / network
    if machine.hosts == 1:
        link += copies / machine.link_bandwidth
    found = {"compute": computing, "link": link, "network": wide}
    slowest = max(found, key=lambda name: found[name])
    return found[slowest], slowest
