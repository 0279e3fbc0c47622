"""What the parts of a plan hand to one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Platform = Literal["tpu", "gpu", "cpu"]


@dataclass(frozen=True)
class Machine:
    """What a plan is for, with the vendor's figures for one JAX device (not one chip, where a chip has two)."""

    name: str  # as the user writes it: "v5e-256", "h100x8"
    kind: str  # JAX's device_kind: "TPU v5 lite", "NVIDIA H100 80GB HBM3"
    platform: Platform
    devices: int
    hosts: int  # gpu: machines joined by the network; tpu: slices are one network, so 1 per slice
    devices_per_host: int  # devices joined by the fast links
    topology: str  # libtpu's topology name, or "1xHOSTSxDEVICES"
    hbm_bytes: int | None  # None: not known (cpu)
    hbm_bandwidth: float | None  # bytes/s
    peak_flops: Mapping[str, float]  # FLOP/s by dtype: "bfloat16", "int8", "fp8"; empty: not known
    link_bandwidth: float | None  # bytes/s of a device, one way: all its ICI links together, or NVLink
    network_bandwidth: float | None  # bytes/s of a device, one way, between hosts (gpu) or slices (tpu)
    price_per_device_hour: float | None = None  # US dollars, from a prices file


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, as the compiler counts them."""

    arguments: int
    outputs: int
    aliased: int  # outputs that take the place of arguments
    temporaries: int
    peak: int  # TPU: the compiler's own peak; elsewhere arguments + outputs - aliased + temporaries
    code: int = 0


@dataclass(frozen=True)
class Program:
    """One compiled program."""

    name: str  # "train step", "prefill 1024", "generate 256 x 8192"
    text: str  # optimized HLO
    memory: Memory
    cost: Mapping[str, float] | None  # raw cost_analysis; bodies of loops are counted once in it
    lower_seconds: float
    compile_seconds: float
    # Devices along each axis; the text's replica groups number the mesh's places, the last axis varying fastest.
    mesh: Mapping[str, int]
    devices: int
    machine: Machine
    notes: tuple[str, ...] = ()
