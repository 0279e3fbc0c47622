"""Whether a folder's config.json said all that a model computes."""

from __future__ import annotations

import math
from typing import Any

from maxllm.config.model import ModelConfig

# How a model is trained: nothing that a loaded model computes depends on it.
TRAINING = {
    "init_std",
    "capacity_factor",
    "routing.balance_loss",
    "routing.z_loss",
    "routing.bias_rate",
    "encoder.generator_factor",
}


def contradiction(config: ModelConfig, told: ModelConfig) -> str | None:
    """The first setting of `config` that matters and that `told`, made of a folder, has otherwise: "name value"."""
    meant, said = computed(config), computed(told)
    for name, value in meant.items():
        if not _same(said.get(name), value):
            return f"{name} {value}"
    return None


def computed(config: ModelConfig) -> dict[str, Any]:
    """What a model of this config computes, by dotted name; settings that say nothing there are left out."""
    values = config.model_dump()
    values["head_dim"] = config.head_size
    values["attention_scale"] = config.attention_scale or config.head_size**-0.5
    windows = config.windows
    values["global_every"] = [windows[i % len(windows)] for i in range(config.num_layers)]
    alike = config.rope_local_theta == config.rope_theta and config.rope_scaling is None
    if alike or config.window is None:
        values["rope_local_theta"] = None  # layers with a window, if any, turn as the others do
    if config.positions != "rope":
        for name in ("rope_theta", "rope_local_theta", "rope_scaling"):
            values.pop(name, None)
    if not config.num_experts:
        for name in ("experts_per_token", "routing"):
            values.pop(name)
    else:
        values["routing"] |= {
            "expert_size": config.routing.expert_size or config.intermediate_size,
            "bias": config.routing.biased,
        }
    if config.routing.groups == 1 and "routing" in values:
        values["routing"].pop("groups_per_token")
    for part in ("encoder", "encoder_decoder"):
        if config.architecture != part:
            values.pop(part)
    if config.architecture == "encoder" and config.labels:  # no words are scored
        values["encoder"].pop("head")
        values.pop("tie_embeddings")
    return {name: value for name, value in _flat(values) if name not in TRAINING}


def _same(one: Any, other: Any) -> bool:
    """A root that someone wrote down has fewer digits than a computed one."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        found += _flat(value, f"{before}{name}.") if isinstance(value, dict) else [(before + name, value)]
    return found
