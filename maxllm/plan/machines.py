"""Machines by the names users know: v5e-256, v5p-128, tpu7x-64, h100x8, h200x8x4. Needs no JAX."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from maxllm.config.devices import facts
from maxllm.config.errors import UserError
from maxllm.plan.types import Machine

# Chips of a slice -> its shape. cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}: the shapes one can ask for, of those
# with equally many chips the one nearest to a cube, which has the most links.
_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    768: "8x8x12",
    1024: "8x8x16",
    1536: "8x12x16",
    2048: "8x16x16",
    3072: "12x16x16",
    4096: "16x16x16",
}


@dataclasses.dataclass(frozen=True)
class _Tpu:
    kind: str  # JAX's device_kind
    shapes: Mapping[int, str]
    per_chip: int = 1  # what the number in a name counts: chips, or TensorCores of which a chip has two
    devices_per_chip: int = 1


_TPUS = {
    "v4": _Tpu("TPU v4", _CUBES, per_chip=2),
    "v5e": _Tpu("TPU v5 lite", _FLAT),
    "v5p": _Tpu("TPU v5", {**_CUBES, 6144: "16x16x24"}, per_chip=2),
    "v6e": _Tpu("TPU v6 lite", _FLAT),
    "tpu7x": _Tpu("TPU7x", _CUBES, per_chip=2, devices_per_chip=2),
}
_ALIASES = {"v5litepod": "v5e", "v7x": "tpu7x"}
_GPUS = {"a100": "NVIDIA A100-SXM4-80GB", "h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
_GPUS_PER_HOST = 8

EXAMPLES = "v5e-256, v5p-128, v6e-256, v5e-256x2 (two slices), h100x8, h200x8x4 (four hosts of eight), cpux8"


def machine(name: str, prices: Mapping[str, float] | None = None) -> Machine:
    """The machine called `name`. `prices`: US dollars of a chip or GPU an hour, by family ("v5e", "h100").

    Raises UserError for a family nobody knows and for sizes that cannot be had.
    """
    lowered = name.lower()
    if found := re.fullmatch(r"(v\d\w*?|v5litepod|tpu7x)-(\d+)(?:x(\d+))?", lowered):
        family, size, slices = found.groups()
        return _tpu(name, _ALIASES.get(family, family), int(size), int(slices or 1), prices or {})
    if found := re.fullmatch(r"([a-z]+?\d*?)(?:x(\d+))?(?:x(\d+))?", lowered):
        family, devices, hosts = found.groups()
        if family in _GPUS:
            return _gpu(name, family, int(devices or 1), int(hosts or 1), prices or {})
        if family == "cpu" and hosts is None and int(devices or 1) > 0:
            return _machine(name, "cpu", "cpu", 1, int(devices or 1), f"1x{devices or 1}", None)
    families = ", ".join([*_TPUS, *_GPUS])
    raise UserError(f"--on {name}: no such machine; families are {families}, and names look like {EXAMPLES}")


def family(machine: Machine) -> str:
    """ "v5e", "h100", "cpu": what prices are listed by."""
    known = {**{tpu.kind: name for name, tpu in _TPUS.items()}, **{kind: name for name, kind in _GPUS.items()}}
    return known.get(machine.kind, machine.kind)


def _tpu(name: str, family: str, size: int, slices: int, prices: Mapping[str, float]) -> Machine:
    if family not in _TPUS:
        raise UserError(f"--on {name}: no such TPU; families are {', '.join(_TPUS)}")
    tpu = _TPUS[family]
    chips, odd = divmod(size, tpu.per_chip)
    if odd or chips not in tpu.shapes or not slices:
        possible = ", ".join(f"{family}-{known * tpu.per_chip}" for known in tpu.shapes)
        counts = "TensorCores, two to a chip" if tpu.per_chip == 2 else "chips"
        raise UserError(f"--on {name}: no such slice; the number counts {counts}: {possible}")
    shape = tpu.shapes[chips]
    assert math.prod(int(side) for side in shape.split("x")) == chips
    price = prices.get(family)
    return _machine(
        name,
        tpu.kind,
        "tpu",
        slices,
        chips * tpu.devices_per_chip,
        f"{family}:{shape}",
        price and price / tpu.devices_per_chip,
    )


def _gpu(name: str, family: str, devices: int, hosts: int, prices: Mapping[str, float]) -> Machine:
    if not hosts or not 1 <= devices <= _GPUS_PER_HOST:
        raise UserError(
            f"--on {name}: a host has 1 to {_GPUS_PER_HOST} GPUs; several hosts are {family}x{_GPUS_PER_HOST}xHOSTS, "
            f"such as {family}x8x4"
        )
    return _machine(name, _GPUS[family], "gpu", hosts, devices, f"1x{hosts}x{devices}", prices.get(family))


def _machine(
    name: str, kind: str, platform: str, hosts: int, per_host: int, topology: str, price: float | None
) -> Machine:
    known = facts(kind)
    return Machine(
        name=name,
        kind=kind,
        platform=platform,  # type: ignore[arg-type]
        devices=hosts * per_host,
        hosts=hosts,
        devices_per_host=per_host,
        topology=topology,
        hbm_bytes=known.hbm_bytes if known else None,
        hbm_bandwidth=known.hbm_bandwidth if known else None,
        peak_flops=known.peak_flops if known else {},
        link_bandwidth=known.link_bandwidth if known else None,
        network_bandwidth=known.network_bandwidth if known else None,
        price_per_device_hour=price,
    )
