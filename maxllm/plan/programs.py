"""The programs a run would execute, compiled for a machine that need not be here.

They are the training loop's and the engine's own, lowered from shapes: nothing is allocated.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.serve import EngineConfig
from maxllm.config.train import TrainConfig
from maxllm.data.corruption import example_row
from maxllm.generate.engine import Engine
from maxllm.models import abstract
from maxllm.parallel.mesh import make_mesh
from maxllm.parallel.rules import check_layout, shardings, spec
from maxllm.plan import targets
from maxllm.plan.types import Machine, Memory, Program
from maxllm.train.assembly import Assembly, assemble, state_shapes, train_step
from maxllm.train.state import TrainState

Say = Callable[[str], None]


class DoesNotFit(Exception):
    """The compiler gave up: the program needs more of a device's memory than there is."""

    def __init__(self, name: str, needed: int | None, limit: int | None, message: str):
        super().__init__(message)
        self.name, self.needed, self.limit = name, needed, limit


def train_arguments(config: TrainConfig, mesh: Mesh) -> tuple[Assembly, TrainState, Batch | EncoderDecoderBatch]:
    """What a step is made of, and its arguments as shapes with the layouts that the training loop gives them."""
    check_layout(
        config.model, mesh, config.data.batch_size // config.train.accumulation_steps, config.data.sequence_length
    )
    parts = assemble(config)

    def shape(row: np.ndarray) -> jax.ShapeDtypeStruct:
        along = ("batch", "length" if row.shape[1] > 1 else None)
        size = (config.data.batch_size, row.shape[1])
        return jax.ShapeDtypeStruct(size, row.dtype, sharding=NamedSharding(mesh, spec(along)))

    return parts, state_shapes(config, parts, mesh), jax.tree.map(shape, example_row(config))


def train_program(config: TrainConfig, machine: Machine, say: Say = lambda line: None) -> Program:
    """The training step. Raises UserError for a layout that cannot be, DoesNotFit where the compiler says so."""
    mesh = make_mesh(config.mesh, targets.devices(machine))
    parts, state, batch = train_arguments(config, mesh)
    step = train_step(config, parts, mesh)
    return _compiled("train step", lambda: step.lower(state, batch), mesh, machine, say)


def engine_for(model: ModelConfig, config: EngineConfig, machine: Machine) -> Engine:
    """The engine of `config` on the first `config.tensor` devices of `machine`, its parameters shapes only."""
    if machine.devices < config.tensor:
        raise UserError(f"engine.tensor {config.tensor}: {machine.name} has {machine.devices} devices")
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=config.tensor), targets.devices(machine)[: config.tensor])
    check_layout(model, mesh)
    structure, parameters = abstract(model)
    layout = shardings(parameters, mesh)
    shapes = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), parameters, layout
    )
    return Engine(nnx.merge(structure, shapes), config, model)


def serve_programs(
    engine: Engine, config: EngineConfig, machine: Machine, say: Say = lambda line: None
) -> Iterator[Program]:
    """Prefill and insert of the longest prompt, and a decode step of all slots over all positions."""
    bucket = engine.max_prefill_length
    for key in (("prefill", bucket), ("insert", bucket), ("generate", config.slots, engine.max_length)):
        yield _compiled(" ".join(map(str, key)), functools.partial(engine.lower, *key), engine.mesh, machine, say)


def _compiled(name: str, lower: Callable[[], jax.stages.Lowered], mesh: Mesh, machine: Machine, say: Say) -> Program:
    sizes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    say(f"{name}: tracing for {machine.name} ({sizes})")
    start = time.perf_counter()
    lowered = lower()
    lowering = time.perf_counter() - start
    say(f"{name}: compiling for {machine.name} ({sizes})")
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _does_not_fit(name, str(error)) from None
    compiling = time.perf_counter() - start
    _check_target(name, compiled, machine)
    memory = _memory(compiled, machine)
    cost = compiled.cost_analysis() if machine.platform != "gpu" else None  # GPU compilers have none
    return Program(
        name=name,
        text=compiled.as_text() or "",
        memory=memory,
        cost=cost,
        lower_seconds=lowering,
        compile_seconds=compiling,
        mesh=dict(mesh.shape),
        devices=mesh.size,
        machine=machine,
    )


def _memory(compiled: jax.stages.Compiled, machine: Machine) -> Memory:
    told = compiled.memory_analysis()
    arguments, outputs = told.argument_size_in_bytes, told.output_size_in_bytes
    aliased, temporaries = told.alias_size_in_bytes, told.temp_size_in_bytes
    # The TPU's compiler counts what lives at the same time; temporaries are then laid out with gaps between them.
    peak = told.peak_memory_in_bytes if machine.platform == "tpu" else arguments + outputs - aliased + temporaries
    return Memory(arguments, outputs, aliased, temporaries, peak, told.generated_code_size_in_bytes)


def _check_target(name: str, compiled: jax.stages.Compiled, machine: Machine) -> None:
    """A program none of whose arguments lies on the machine is compiled for this one's CPU, without a word."""
    leaves = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    kinds = {device.device_kind for leaf in leaves for device in leaf.device_set}
    if kinds != {machine.kind}:
        raise RuntimeError(f"{name} was compiled for {', '.join(sorted(kinds))}, not for {machine.kind}")


def _does_not_fit(name: str, message: str) -> DoesNotFit:
    """The TPU compiler's two ways to say it: temporaries against the memory, or everything against it."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.search(
        r"temporaries \(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", message
    ) or re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", message)
    if not found:
        return DoesNotFit(name, None, None, message)
    used, unit, limit, limit_unit = found.groups()
    return DoesNotFit(name, int(float(used) * units[unit]), int(float(limit) * units[limit_unit]), message)


def mesh_of(config: MeshConfig, machine: Machine) -> dict[str, int]:
    """Devices along each axis, without asking a compiler. Raises UserError if they do not cover the machine."""
    fixed = 1
    for size in config.sizes.values():
        fixed *= max(size, 1)
    fill, left = divmod(machine.devices, fixed)
    sizes = {axis: fill if size == -1 else size for axis, size in config.sizes.items()}
    if left or (fill != 1 and -1 not in config.sizes.values()):
        asked = " x ".join(f"{axis}={size}" for axis, size in config.sizes.items() if size != 1)
        raise UserError(f"mesh: {asked or 'one device'} does not cover the {machine.devices} devices of {machine.name}")
    return sizes
