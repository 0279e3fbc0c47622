"""Peak FLOP/s by the names JAX gives devices."""

from __future__ import annotations

import pytest

from maxllm.config.devices import peak_flops


@pytest.mark.parametrize(
    "kind, tera",
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("TPU7x", 1153.5),
    ],
)
def test_peak_of_a_known_device(kind, tera):
    assert peak_flops(kind) == tera * 1e12


@pytest.mark.parametrize("kind", ["cpu", "", "some GPU"])
def test_an_unknown_device_has_none_rather_than_a_guess(kind):
    assert peak_flops(kind) is None
