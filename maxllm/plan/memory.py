"""A device's memory by kind: what the layouts say, what the compiler says, and what neither does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maxllm.config.model import ModelConfig
from maxllm.config.train import TrainConfig
from maxllm.models.remat import INPUT, REMAT
from maxllm.parallel.rules import RULES, WHOLE, mesh_axes, shardings
from maxllm.plan.types import Machine, Memory
from maxllm.train.state import TrainState

# Of a device's memory, what a program may count on: the runtime, fragmentation and the collectives' buffers (NCCL's,
# cuDNN's workspaces, which the GPU compiler counts as nothing) take some. An assumption, not a measurement.
USABLE = 0.9

Source = Literal["layout", "compiled", "formula", "unknown"]


@dataclass(frozen=True)
class Part:
    """Bytes on one device. `source`: "layout": shapes and shardings, exactly; "formula": see `saved_activations`."""

    name: str
    bytes: int | None
    source: Source
    within: str | None = None  # the part that it is a part of
    note: str = ""


@dataclass(frozen=True)
class Fit:
    needed: int  # arguments, temporaries, and outputs that replace no argument
    usable: int | None
    fits: bool | None  # None: how much the device has is not known

    @property
    def margin(self) -> int | None:
        return None if self.usable is None else self.usable - self.needed


def fit(memory: Memory, machine: Machine, resident: int = 0) -> Fit:
    """Whether a program fits beside `resident` bytes that are none of its arguments."""
    needed = memory.arguments + memory.outputs - memory.aliased + memory.temporaries + memory.code + resident
    usable = int(machine.hbm_bytes * USABLE) if machine.hbm_bytes else None
    return Fit(needed, usable, None if usable is None else needed <= usable)


def bytes_per_device(tree: Any) -> int:
    """Of shapes with shardings, on one device. TPUs pad small arrays to their tiles: there it is a little more."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def train_parts(config: TrainConfig, mesh: Mesh, state: TrainState, batch: Any, memory: Memory | None) -> list[Part]:
    """What a training step keeps on one device. `memory` None: nothing was compiled."""
    parameters, moments = bytes_per_device(state.parameters), bytes_per_device(state.optimizer)
    rest = bytes_per_device(state) - parameters - moments
    fed = bytes_per_device(batch)
    parts = [
        Part("parameters", parameters, "layout", note="float32"),
        Part("optimizer", moments, "layout", note=f"{config.optimizer.name}'s moments"),
        Part("batch", fed, "layout"),
    ]
    if rest > 1024:
        parts.append(Part("other state", rest, "layout"))
    if memory is None:
        parts.append(Part("temporaries", None, "unknown", note="nothing was compiled"))
    else:
        padding = memory.arguments - parameters - moments - rest - fed
        if padding > 2**20:
            parts.append(Part("padding of the above", padding, "compiled"))
        parts.append(Part("program", memory.code, "compiled"))
        parts.append(Part("temporaries", memory.temporaries, "compiled", note="of which"))
    saved, note = saved_activations(config, mesh.shape)
    parts.append(Part("saved activations", saved, "formula" if saved is not None else "unknown", "temporaries", note))
    gradients = _float32(state, mesh, WHOLE if config.mesh.zero == 1 else RULES)
    parts.append(Part("gradients", gradients, "formula", "temporaries", "float32, laid out as they are kept"))
    copy = 0
    if config.mesh.zero < 3:
        copy = _float32(state, mesh, WHOLE) // 4 * _itemsize(config.compute.dtype)
        parts.append(Part("gathered parameters", copy, "formula", "temporaries", f"{config.compute.dtype}, for a step"))
    if memory is not None and saved is not None:
        rest = max(memory.temporaries - saved - gradients - copy, 0)
        parts.append(Part("all else", rest, "formula", "temporaries", "gathered weights, one layer's work, logits"))
    return parts


def _float32(state: TrainState, mesh: Mesh, rules: Any) -> int:
    """Bytes on one device of four for each parameter, laid out by `rules`."""
    layout = shardings(state.parameters, mesh, rules)
    pairs = zip(jax.tree.leaves(state.parameters), jax.tree.leaves(layout), strict=True)
    return sum(math.prod(at.shard_shape(leaf.shape)) * 4 for leaf, at in pairs)


def saved_activations(config: TrainConfig, mesh: Mapping[str, int]) -> tuple[int | None, str]:
    """Bytes on one device of what the forward pass leaves for the backward: per layer its input and what
    `compute.remat` and `compute.save` name, but for what `compute.offload` sends to the host. None where every
    intermediate is kept: which they are is the compiler's choice.
    """
    model, compute = config.model, config.compute
    if compute.remat not in REMAT:
        return None, f"compute.remat={compute.remat}: part of the temporaries"
    rows = config.data.batch_size // config.train.accumulation_steps
    sizes = _sizes(model, rows, config.data.sequence_length)
    kept = [
        name for name in dict.fromkeys((INPUT, *REMAT[compute.remat], *compute.save)) if name not in compute.offload
    ]
    per_layer = sum(
        math.prod(sizes[axis] for axis in AXES[name])
        * (4 if name == "attention_denominator" else _itemsize(compute.dtype))
        // _devices(AXES[name], mesh)
        for name in kept
        if name in AXES
    )
    uncounted = "".join(f", and {name}, which is not counted" for name in kept if name not in AXES)
    layers = model.num_layers // mesh.get("stage", 1)
    # A pipeline's stage holds as many micro-batches as there are stages (1F1B), or all of them (GPipe).
    held = 1
    if mesh.get("stage", 1) > 1:
        gpipe = config.pipeline.schedule == "gpipe"
        held = config.train.accumulation_steps if gpipe else min(mesh["stage"], config.train.accumulation_steps)
    said = f"compute.remat={compute.remat}: {per_layer / 1e6:,.1f} MB a layer{uncounted}"
    return per_layer * layers * held, said


# Logical axes of the intermediates that go by a name (maxllm/models/remat.py).
AXES: dict[str, tuple[str, ...]] = {
    INPUT: ("batch", "sequence", "embed_whole"),
    "query": ("batch", "length", "heads", "head_dim"),
    "key": ("batch", "length", "kv_heads", "head_dim"),
    "value": ("batch", "length", "kv_heads", "head_dim"),
    "attention": ("batch", "length", "heads", "head_dim"),
    "attention_denominator": ("batch", "length", "heads"),
    "attention_output": ("batch", "length", "embed_whole"),
    "mlp_gate": ("batch", "length", "mlp"),
    "mlp_up": ("batch", "length", "mlp"),
}


def _sizes(model: ModelConfig, rows: int, length: int) -> dict[str, int]:
    return {
        "batch": rows,
        "length": length,
        "sequence": length,
        "embed_whole": model.hidden_size,
        "heads": model.num_heads,
        "kv_heads": model.num_kv_heads,
        "head_dim": model.head_size,
        # In a mixture, of each expert of a token.
        "mlp": (model.routing.expert_size or model.intermediate_size) * model.experts_per_token
        if model.num_experts
        else model.intermediate_size,
    }


def _devices(axes: tuple[str, ...], mesh: Mapping[str, int]) -> int:
    """Over how many devices an activation of these logical axes is split."""
    names = {name for axis in axes for name in mesh_axes(RULES.get(axis))}
    return math.prod(mesh.get(name, 1) for name in names)


def _itemsize(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize
