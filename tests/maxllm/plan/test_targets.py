"""Devices that are not here are the machine's, and a compiler that is not here is asked for in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import pytest

from maxllm.config.errors import UserError
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
