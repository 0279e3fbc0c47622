"""A machine is what its name says, and a name that is none is told so."""

from __future__ import annotations

import pytest

from maxllm.config.devices import facts
from maxllm.config.errors import UserError
from maxllm.plan.machines import family, machine


@pytest.mark.parametrize(
    "name, kind, devices, hosts, topology",
    [
        ("v5e-256", "TPU v5 lite", 256, 1, "v5e:16x16"),
        ("v5e-1", "TPU v5 lite", 1, 1, "v5e:1x1"),
        ("v5litepod-16", "TPU v5 lite", 16, 1, "v5e:4x4"),
        ("v5e-256x2", "TPU v5 lite", 512, 2, "v5e:16x16"),
        ("v5p-128", "TPU v5", 64, 1, "v5p:4x4x4"),  # TensorCores, two to a chip
        ("v5p-1024", "TPU v5", 512, 1, "v5p:8x8x8"),
        ("v4-8", "TPU v4", 4, 1, "v4:2x2x1"),
        ("v6e-256", "TPU v6 lite", 256, 1, "v6e:16x16"),
        ("tpu7x-128", "TPU7x", 128, 1, "tpu7x:4x4x4"),  # 64 chips, each two devices
        ("h100x8", "NVIDIA H100 80GB HBM3", 8, 1, "1x1x8"),
        ("h100", "NVIDIA H100 80GB HBM3", 1, 1, "1x1x1"),
        ("h200x8x4", "NVIDIA H200", 32, 4, "1x4x8"),
        ("A100x4", "NVIDIA A100-SXM4-80GB", 4, 1, "1x1x4"),
        ("cpux8", "cpu", 8, 1, "1x8"),
    ],
)
def test_a_name_says_how_many_devices_of_which_kind(
    name: str, kind: str, devices: int, hosts: int, topology: str
) -> None:
    found = machine(name)
    assert (found.kind, found.devices, found.hosts, found.topology) == (kind, devices, hosts, topology)
    assert found.devices_per_host * found.hosts == found.devices


@pytest.mark.parametrize(
    "name, words",
    [
        ("v5e-100", ["counts chips", "v5e-64", "v5e-256"]),
        ("v5p-100", ["TensorCores, two to a chip", "v5p-128"]),
        ("v9z-8", ["no such", "v5e"]),
        ("h100x16", ["1 to 8 GPUs", "h100x8x4"]),
        ("h100x0", ["1 to 8"]),
        ("mi300x8", ["no such machine", "h100"]),
        ("cpux8x2", ["no such machine"]),
        ("v5e-256x0", ["no such slice"]),
    ],
)
def test_a_name_that_is_none_is_refused_with_those_that_are(name: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        machine(name)
    assert "\n" not in str(error.value)
    for word in [name, *words]:
        assert word in str(error.value)


def test_figures_are_of_one_device_as_jax_counts_them() -> None:
    """By hand from the data sheets: an Ironwood chip is 2307 TFLOP/s, 192 GiB, 7.4 TB/s, and shows as two devices."""
    half = machine("tpu7x-8")
    assert half.peak_flops["bfloat16"] == 2307e12 / 2 and half.hbm_bytes == 192 * 2**30 // 2
    v5p = machine("v5p-8")
    assert v5p.hbm_bytes == 95 * 2**30 and v5p.link_bandwidth == 600e9  # 4800 Gbit/s one way
    h100 = machine("h100x8")
    assert h100.peak_flops == {"bfloat16": 989e12, "fp8": 1979e12, "int8": 1979e12}
    assert h100.link_bandwidth == 900e9 / 2 and h100.network_bandwidth == 400e9 / 8
    assert machine("cpux2").hbm_bytes is None and not machine("cpux2").peak_flops


def test_a_price_is_of_a_chip_and_becomes_a_devices() -> None:
    prices = {"v5e": 1.2, "tpu7x": 12.0, "h100": 3.0}
    assert machine("v5e-8", prices).price_per_device_hour == 1.2
    assert machine("tpu7x-8", prices).price_per_device_hour == 6.0
    assert machine("h100x8x2", prices).price_per_device_hour == 3.0
    assert machine("v6e-8", prices).price_per_device_hour is None


def test_every_family_has_figures_and_is_named_as_prices_name_it() -> None:
    for name in ("v4-8", "v5e-4", "v5p-8", "v6e-4", "tpu7x-8", "a100x1", "h100x1", "h200x1"):
        assert facts(machine(name).kind) is not None
        assert name.startswith(family(machine(name)))
