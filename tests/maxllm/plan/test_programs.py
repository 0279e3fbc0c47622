"""What is compiled is the run's own step, for the machine asked for, and its numbers add up."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maxllm.config.load import resolve
from maxllm.config.parallel import MeshConfig
from maxllm.config.serve import EngineConfig
from maxllm.config.train import TrainConfig
from maxllm.parallel.mesh import make_mesh
from maxllm.plan import programs, targets
from maxllm.plan.machines import machine
from maxllm.plan.memory import bytes_per_device
from maxllm.plan.programs import DoesNotFit, engine_for, serve_programs, train_arguments, train_program
from maxllm.plan.report import plan_training
from maxllm.plan.types import Program

Tiny = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def on_cpu(tiny: Tiny) -> Program:
    return train_program(tiny("mesh.fsdp=8"), machine("cpux8"))


def test_the_steps_arguments_are_the_state_and_the_batch(tiny: Tiny, on_cpu: Program) -> None:
    config = tiny("mesh.fsdp=8")
    _, state, batch = train_arguments(config, make_mesh(config.mesh, jax.devices()))
    assert on_cpu.memory.arguments == bytes_per_device((state, batch))
    # The state is donated: what comes out takes its place, but for a few scalars of metrics.
    assert bytes_per_device(state) - 64 <= on_cpu.memory.aliased <= bytes_per_device(state)
    assert 0 <= on_cpu.memory.outputs - on_cpu.memory.aliased < 1024
    assert on_cpu.memory.peak >= on_cpu.memory.arguments


def test_the_program_is_the_machines_and_says_its_layout(on_cpu: Program) -> None:
    assert on_cpu.devices == 8 and on_cpu.mesh == dict(data=1, stage=1, fsdp=8, expert=1, context=1, tensor=1)
    assert "all-gather" in on_cpu.text and on_cpu.compile_seconds > 0


def test_a_program_compiled_for_another_device_is_an_error() -> None:
    """Shapes without a layout on the machine are compiled for this one's CPU, without a word."""
    compiled = jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((8,), jnp.float32)).compile()
    with pytest.raises(RuntimeError, match="compiled for cpu, not for TPU v5 lite"):
        programs._check_target("step", compiled, machine("v5e-4"))


def test_the_compilers_refusals_are_numbers() -> None:
    first = (
        "RESOURCE_EXHAUSTED: ... the total memory required for HLO temporaries (36.26G) exceeds available HBM (15.75G)."
    )
    second = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 34.75G of 31.24G hbm. Exceeded by 3.51G."
    for message, needed, limit in ((first, 36.26, 15.75), (second, 34.75, 31.24)):
        refused = programs._does_not_fit("step", message)
        assert (refused.needed, refused.limit) == (int(needed * 2**30), int(limit * 2**30))
    assert programs._does_not_fit("step", "RESOURCE_EXHAUSTED: of something else").needed is None


def test_what_the_tpus_compiler_refuses_is_how_much_it_needs(libtpu: None) -> None:
    """A product of 32 GiB, needed for its sum only, on a chip of 16."""
    on = machine("v5e-1")
    mesh = make_mesh(MeshConfig(fsdp=1), targets.devices(on))
    x = jax.ShapeDtypeStruct((2**17, 2**14), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec()))
    twice = jax.jit(lambda x: jnp.sort(x @ x.T, axis=0).sum())
    with pytest.raises(DoesNotFit) as refused:
        programs._compiled("product", lambda: twice.lower(x), mesh, on, lambda line: None)
    assert refused.value.needed and refused.value.limit
    assert refused.value.needed >= 2**35 and 15 * 2**30 < refused.value.limit < 16 * 2**30


@pytest.mark.slow
def test_a_step_the_compiler_refuses_is_a_plan_that_does_not_fit(tiny: Tiny, libtpu: None) -> None:
    plan = plan_training(tiny("mesh.fsdp=4", "data.batch_size=4194304"), machine("v5e-4"))
    assert not plan.fits and plan.program is None and "RESOURCE_EXHAUSTED" in plan.refusal
    assert plan.fit.usable is not None and plan.fit.needed > plan.fit.usable


def test_the_engines_programs_compile_from_shapes(tiny: Tiny) -> None:
    config = EngineConfig(slots=4, max_length=32, prefill_buckets=[16], tensor=2)
    engine = engine_for(tiny().model, config, machine("cpux2"))
    found = {program.name: program for program in serve_programs(engine, config, machine("cpux2"))}
    assert list(found) == ["prefill 16", "insert 16", "generate 4 32"]
    cache = (
        2 * 2 * 4 * 2 * 32 * 8 * 4 // 2
    )  # keys and values; layers, slots, kv heads, positions, head_dim; over tensor
    decode = found["generate 4 32"].memory
    assert decode.aliased >= cache  # in place
    assert bytes_per_device(engine.params) + cache <= decode.arguments < bytes_per_device(engine.params) + cache + 1024


def test_a_tpu_step_is_compiled_for_the_tpu(tiny: Tiny, libtpu: None) -> None:
    """The one of the default suite: a tiny step for four v5e chips, by the TPU's own compiler."""
    on = machine("v5e-4")
    config = tiny("compute.dtype=bfloat16", "mesh.fsdp=4", "compute.attention=blockwise")
    program = train_program(config, on)
    assert "all-reduce" in program.text or "reduce-scatter" in program.text
    assert program.memory.peak >= program.memory.arguments > 0 and program.cost is not None


@pytest.mark.slow
def test_llama_8b_fits_a_v5e_pod_as_its_layouts_say(libtpu: None) -> None:
    config = resolve(
        TrainConfig,
        "models/llama3.1-8b",
        ["data.batch_size=256", "data.sequence_length=8192", "compute.remat=full", "compute.dtype=bfloat16"],
    ).config
    plan = plan_training(config, machine("v5e-256"))
    assert plan.fits and plan.program and plan.contents and plan.roofline
    state = 12 * 8_030_261_248 / 256  # float32 parameters and two moments
    assert state <= plan.program.memory.arguments <= 1.01 * state + 2e6
    assert plan.roofline.mfu_ceiling is not None and 0.3 < plan.roofline.mfu_ceiling <= 1
    # Not one chip's worth: twice the temporaries would not fit, and the compiler's peak says as much.
    assert 2e9 < plan.program.memory.peak < 16 * 2**30


@pytest.mark.slow
def test_one_row_a_device_and_tensor_parallel_read_no_more_than_their_own(libtpu: None) -> None:
    """Rows and lengths merged into one axis made the partitioner send all rows round: over 200 GB where 4 are due."""
    settings = ["data.batch_size=32", "data.sequence_length=4096", "train.accumulation_steps=1", "model.num_layers=2"]
    layout = ["mesh.fsdp=32", "mesh.tensor=8", "compute.remat=dots"]
    plan = plan_training(
        resolve(TrainConfig, "pretrain/7b-chinchilla", [*settings, *layout]).config, machine("v5e-256")
    )
    assert plan.contents and plan.contents.memory_bytes < 8e9


@pytest.mark.slow
def test_llama_8b_on_eight_h100(cuda: None) -> None:
    config = resolve(
        TrainConfig,
        "models/llama3.1-8b",
        ["data.batch_size=8", "data.sequence_length=8192", "compute.remat=full", "compute.dtype=bfloat16"],
    ).config
    plan = plan_training(config, machine("h100x8"))
    assert plan.program and plan.contents
    assert 12 * 8_030_261_248 / 8 <= plan.program.memory.arguments <= 12.2 * 8_030_261_248 / 8
    assert plan.contents.fused_attention, "no fused attention kernel on a GPU"
