"""The flags in the table exist in the compilers that are pinned, have reasons, and travel with the program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.parallel.compiler_flags import FLAGS, compiler_options, flags_for
from maxllm.parallel.mesh import make_mesh, single_device_mesh
from maxllm.plan.machines import machine
from maxllm.plan.targets import devices, environment
from maxllm.train.step import Step


def test_every_flag_has_a_reason():
    assert all(flag.reason for _, flags in FLAGS for flag in flags.values())


def test_a_kind_gets_its_own_flags_and_the_users_win():
    assert flags_for("NVIDIA H200").keys() and not flags_for("cpu")
    assert compiler_options(single_device_mesh(), {"xla_some_flag": 3}) == {"xla_some_flag": 3}


def test_a_flag_that_the_compiler_does_not_know_is_an_error_on_both_roads():
    step = Step(single_device_mesh(), lambda x, batch: x + batch, flags={"xla_no_such_flag": True})
    for road in (lambda: step(jnp.ones(2), jnp.ones(2)), lambda: step.lower(jnp.ones(2), jnp.ones(2)).compile()):
        with pytest.raises(Exception, match="No such compile option: 'xla_no_such_flag'"):
            road()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-8", "v5p-8", "v6e-8", "tpu7x-8", "h200x8"])
def test_the_compiler_for_a_machine_takes_its_flags(name):
    target = machine(name)
    try:
        environment(target)
        mesh = make_mesh(MeshConfig(), devices(target))
    except UserError as error:
        pytest.skip(f"nothing was compiled: {error}")
    x = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))
    compiled = jax.jit(lambda x: x @ x.T, compiler_options=compiler_options(mesh)).lower(x).compile()
    assert "all-gather" in compiled.as_text()
