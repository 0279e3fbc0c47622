"""Facts about devices, by the name JAX gives them (`device_kind`). Needs no JAX."""

from __future__ import annotations

import re

# Dense bfloat16 multiply-accumulate peak in FLOP/s of one JAX device, from the vendors' data sheets (without
# sparsity). First match wins. A TPU v7x chip shows as two devices of half its 2307 TFLOP/s.
_PEAK_FLOPS: tuple[tuple[str, float], ...] = (
    (r"H100 PCIe", 756e12),
    (r"H100 NVL", 835e12),
    (r"H100|H200|GH200", 989e12),
    (r"B200|GB200", 2250e12),
    (r"A100", 312e12),
    (r"TPU ?v?7x?", 1153.5e12),
    (r"TPU v6e|TPU v6 lite", 918e12),
    (r"TPU v5e|TPU v5 ?lite", 197e12),
    (r"TPU v5p?", 459e12),
    (r"TPU v4", 275e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of one device in bfloat16, or None where it is not known or means nothing (a CPU)."""
    return next((peak for kind, peak in _PEAK_FLOPS if re.search(kind, device_kind, re.IGNORECASE)), None)
