"""Facts about devices, by the name JAX gives them (`device_kind`). Needs no JAX.

Of one JAX device, from the vendors' data sheets and system-architecture pages, dense (no sparsity). Bandwidths in
bytes/s. A link's is one way, so half of what the sheets call bidirectional: a ring sends and receives at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class DeviceFacts:
    peak_flops: Mapping[str, float]  # FLOP/s of matrix products by dtype: bfloat16, fp8, int8
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float  # all the fast links (ICI, NVLink) of a device together
    network_bandwidth: float  # between hosts (GPUs) or slices (TPUs), a device's share
    target: str | None = None  # the file of maxllm/plan/gpu_targets it is compiled for


def _peaks(bfloat16: float, fp8: float | None, int8: float | None) -> dict[str, float]:
    peaks = {"bfloat16": bfloat16, "fp8": fp8, "int8": int8}
    return {dtype: peak for dtype, peak in peaks.items() if peak}


# First match wins. NVIDIA: data sheets of A100, H100, H200 and B200; the memory is what the driver reports, as in XLA's
# target files; the network is one NIC a GPU as in DGX systems (200 Gbit/s with A100, 400 with the others).
# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. A TPU v7x chip shows as two devices, with half of its 2307
# TFLOP/s, 192 GiB and links each. v5p takes fp8 numbers at its bfloat16 speed; v4, v5e and v6e have no fp8.
_FACTS: tuple[tuple[str, DeviceFacts], ...] = (
    ("H100 PCIe", DeviceFacts(_peaks(756e12, 1513e12, 1513e12), 84_942_979_072, 2.0e12, 300e9, 50e9)),
    ("H100 NVL", DeviceFacts(_peaks(835e12, 1671e12, 1671e12), 100_485_038_080, 3.9e12, 300e9, 50e9)),
    ("H200|GH200", DeviceFacts(_peaks(989e12, 1979e12, 1979e12), 151_397_597_184, 4.8e12, 450e9, 50e9, "h200")),
    ("H100", DeviceFacts(_peaks(989e12, 1979e12, 1979e12), 84_942_979_072, 3.35e12, 450e9, 50e9, "h100")),
    ("B200|GB200", DeviceFacts(_peaks(2250e12, 4500e12, 4500e12), 191_514_411_008, 7.7e12, 900e9, 50e9)),
    ("A100", DeviceFacts(_peaks(312e12, None, 624e12), 85_100_068_864, 2.039e12, 300e9, 25e9, "a100")),
    ("TPU ?v?7x?", DeviceFacts(_peaks(1153.5e12, 2307e12, None), 96 * GIB, 3.69e12, 300e9, 6.25e9)),
    ("TPU v6e|TPU v6 lite", DeviceFacts(_peaks(918e12, None, 1836e12), 32 * GIB, 1.64e12, 400e9, 12.5e9)),
    ("TPU v5e|TPU v5 ?lite", DeviceFacts(_peaks(197e12, None, 393e12), 16 * GIB, 0.819e12, 200e9, 3.125e9)),
    ("TPU v5p?", DeviceFacts(_peaks(459e12, 459e12, 918e12), 95 * GIB, 2.765e12, 600e9, 6.25e9)),
    ("TPU v4", DeviceFacts(_peaks(275e12, None, 275e12), 32 * GIB, 1.228e12, 300e9, 6.25e9)),
)


def facts(device_kind: str) -> DeviceFacts | None:
    """None where nothing is known, or where the figures mean nothing (a CPU)."""
    return next((found for kind, found in _FACTS if re.search(kind, device_kind, re.IGNORECASE)), None)


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of one device in bfloat16, or None where it is not known or means nothing (a CPU)."""
    found = facts(device_kind)
    return found.peak_flops["bfloat16"] if found else None
