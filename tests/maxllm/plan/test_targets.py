"""Devices that are not here are the machine's, and a compiler that is not here is asked for in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import pytest

from maxllm.config.errors import UserError
from maxllm.config.parallel import MeshConfig
from maxllm.parallel.mesh import make_mesh
from maxllm.plan import targets
from maxllm.plan.machines import machine


@pytest.mark.parametrize("name", ["v4-8", "v5e-1", "v5e-16", "v5e-16x2", "v5p-64", "v6e-8", "tpu7x-16"])
def test_the_tpus_compiler_knows_the_machine(libtpu: None, name: str) -> None:
    on = machine(name)
    targets.environment(on)
    found = targets.devices(on)
    assert len(found) == on.devices and {device.device_kind for device in found} == {on.kind}
    assert len({getattr(device, "slice_index", 0) if on.hosts > 1 else 0 for device in found}) == on.hosts


@pytest.mark.parametrize("name", ["h100x8", "h200x8x4", "a100x2"])
def test_the_gpus_compiler_knows_the_machine(cuda: None, name: str) -> None:
    on = machine(name)
    targets.environment(on)
    found = targets.devices(on)
    assert len(found) == on.devices and {device.device_kind for device in found} == {on.kind}
    assert len({device.process_index for device in found}) == on.hosts


def test_a_compiler_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(targets, "_importable", lambda name: False)
    with pytest.raises(UserError, match=r"pip install 'maxllm\[plan\]'"):
        targets.environment(machine("v5e-4"))
    with pytest.raises(UserError, match=r"pip install 'maxllm\[plan-gpu\]'"):
        targets.environment(machine("h100x8"))
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "absent.so"))
    with pytest.raises(UserError, match="TPU_LIBRARY_PATH"):
        targets.environment(machine("v5e-4"))


def test_more_cpu_devices_than_jax_was_started_with_is_a_sentence() -> None:
    with pytest.raises(UserError, match="xla_force_host_platform_device_count=64"):
        targets.devices(machine("cpux64"))
    assert targets.devices(machine("cpux8")) == jax.devices("cpu")[:8]


@pytest.mark.parametrize(
    "topology, closed",
    [
        ("v5p:2x4x4", (False, False, False)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5e:8x8", (False, False, False)),
        ("v5e:8x16", (False, True, False)),
        ("v6e:16x16", (True, True, False)),
        ("tpu7x:4x4x4", (True, True, True)),
    ],
)
def test_where_a_slices_links_close_into_a_ring(topology: str, closed: tuple[bool, bool, bool]) -> None:
    assert targets._closed(topology) == closed


def test_on_a_closed_slice_a_gather_is_compiled_as_a_gather(libtpu: None) -> None:
    """Without its ring libtpu writes it as an all-reduce, which sends twice as much."""
    on = machine("v5p-128")
    targets.environment(on)
    mesh = jax.make_mesh((on.devices,), ("fsdp",), devices=targets.devices(on))
    split = jax.NamedSharding(mesh, jax.P("fsdp"))
    x = jax.ShapeDtypeStruct((on.devices * 128, 1024), "bfloat16", sharding=split)
    weight = jax.ShapeDtypeStruct((1024, 2048), "bfloat16", sharding=split)

    def product(x: jax.Array, weight: jax.Array) -> jax.Array:
        return x @ jax.lax.all_gather(weight, "fsdp", tiled=True)

    local = jax.shard_map(product, mesh=mesh, in_specs=(split.spec, split.spec), out_specs=split.spec)
    text = jax.jit(local).lower(x, weight).compile().as_text()
    assert " all-gather(" in text and " all-reduce(" not in text


def test_axes_that_are_no_sides_of_a_slice_share_one(libtpu: None) -> None:
    """8 x 8 on 4x4x4: each axis takes a side and half of the third."""
    on = machine("v5p-128")
    targets.environment(on)
    mesh = make_mesh(MeshConfig(fsdp=8, expert=8), targets.devices(on))
    assert (mesh.shape["fsdp"], mesh.shape["expert"]) == (8, 8) and len(set(mesh.devices.flat)) == 64
