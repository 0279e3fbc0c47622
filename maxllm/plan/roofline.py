"""How fast a compiled step can be at most: what the chip, its memory and its networks need for it.

A roofline (Williams, Waterman and Patterson 2009) with one roof more per network. Nothing here was run: each number is
labelled with where it comes from, and real steps take longer (kernels do not reach their peaks, and what is assumed to
overlap does so only in part).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from maxllm.plan.contents import Contents
from maxllm.plan.types import Machine

Source = Literal["compiled", "formula", "compiled + formula", "unknown"]

ASSUMPTION = (
    "assumed: matrix units, memory and networks work at their peaks and all at the same time, so a step takes as long "
    "as the slowest of them; 'if nothing overlaps' is their sum"
)


@dataclass(frozen=True)
class Bound:
    """The least time that one part of the machine needs for a step."""

    name: str  # compute, memory, link, network
    seconds: float | None  # None: unknown
    source: Source
    note: str = ""


@dataclass(frozen=True)
class Roofline:
    bounds: tuple[Bound, ...]
    step_seconds: float | None  # the largest bound, bubble included; None where none is known
    pessimistic_seconds: float | None  # their sum
    bound_by: str
    bubble: float  # share of a step in which a pipeline's devices wait
    tokens_per_second: float | None
    tokens_per_second_per_device: float | None
    mfu_ceiling: float | None  # model FLOPs over what the peak allows in step_seconds
    hardware_to_model_flops: float | None  # what rematerialisation and masked-out work cost; None where FLOPs unknown
    notes: tuple[str, ...]


def roofline(
    contents: Contents, machine: Machine, *, tokens: int, model_flops: float, devices: int, bubble: float = 0.0
) -> Roofline:
    """Of a step of `tokens` tokens on all `devices` together, worth `model_flops` (train/flops.py times tokens).

    `bubble`: the share of the step in which a pipeline's devices wait, where the compiled program does not show it by
    computing on padding.
    """
    bounds = (
        _compute(contents, machine, model_flops / devices),
        _memory(contents, machine),
        *_networks(contents, machine),
    )
    known = [bound for bound in bounds if bound.seconds is not None]
    counted = contents.flops
    complete = counted.exact and not counted.unknown and counted.total
    ratio = counted.total * devices / model_flops if complete and model_flops else None
    if not known:
        return Roofline(bounds, None, None, "unknown", bubble, None, None, None, ratio, contents.unknowns)
    slowest = max(known, key=lambda bound: bound.seconds or 0.0)
    wait = 1 / (1 - bubble)
    step = (slowest.seconds or 0.0) * wait
    peak = machine.peak_flops.get("bfloat16")
    return Roofline(
        bounds,
        step,
        sum(bound.seconds or 0.0 for bound in known) * wait,
        slowest.name,
        bubble,
        tokens / step if step else None,
        tokens / step / devices if step else None,
        model_flops / (step * devices * peak) if peak and step else None,
        ratio,
        (ASSUMPTION, *contents.unknowns),
    )


def _compute(contents: Contents, machine: Machine, model_flops: float) -> Bound:
    if not machine.peak_flops:
        return Bound("compute", None, "unknown", f"the peak of {machine.kind} is not known")
    seconds, slow = _at_peaks(contents.flops.by_dtype, machine.peak_flops)
    note = f"{', '.join(slow)} products taken at the bfloat16 peak: they are slower" if slow else ""
    if contents.flops.exact and not contents.flops.unknown:
        return Bound("compute", seconds, "compiled + formula" if contents.flops.by_formula else "compiled", note)
    by_formula = model_flops / machine.peak_flops["bfloat16"]
    missing = "kernels or loops whose work is not known; at least the model's FLOPs by formula"
    return Bound("compute", max(seconds, by_formula), "compiled + formula", "; ".join(filter(None, (note, missing))))


def _at_peaks(by_dtype: Mapping[str, float], peaks: Mapping[str, float]) -> tuple[float, list[str]]:
    """Seconds, and the types that have no peak of their own."""
    seconds, slow = 0.0, []
    for dtype, amount in by_dtype.items():
        key = "fp8" if dtype.startswith("f8") else "int8" if dtype in ("s8", "u8", "s4", "u4") else "bfloat16"
        seconds += amount / peaks.get(key, peaks["bfloat16"])
        if dtype not in ("bf16", "f16") and (key == "bfloat16" or key not in peaks):
            slow.append(dtype)
    return seconds, slow


def _memory(contents: Contents, machine: Machine) -> Bound:
    if not machine.hbm_bandwidth:
        return Bound("memory", None, "unknown", f"the memory bandwidth of {machine.kind} is not known")
    note = "" if contents.memory_exact else "at least: loops of unknown trip count are counted once"
    return Bound("memory", contents.memory_bytes / machine.hbm_bandwidth, "compiled", note)


def _networks(contents: Contents, machine: Machine) -> list[Bound]:
    """The fast links within a host (GPU) or slice (TPU), and the network between them."""
    if not contents.collectives:
        return []
    per_host = machine.devices_per_host
    on_network = sum(each.network_bytes(per_host) * each.executions for each in contents.collectives)
    everywhere = sum(each.wire_bytes * each.executions for each in contents.collectives)
    note = "" if all(each.exact for each in contents.collectives) else "at least: see the loops of unknown trip count"
    found = [_network("link", everywhere - on_network, machine.link_bandwidth, note)]
    if on_network:
        axes = sorted({each.axes for each in contents.collectives if each.network_bytes(per_host)})
        crossing = f"between {'slices' if machine.platform == 'tpu' else 'hosts'}: {', '.join(axes)}"
        found.append(
            _network("network", on_network, machine.network_bandwidth, "; ".join(filter(None, (crossing, note))))
        )
    return found


def _network(name: str, sent: float, bandwidth: float | None, note: str) -> Bound:
    if not bandwidth:
        return Bound(name, None, "unknown", f"{sent / 1e9:.3g} GB a device over a {name} of unknown speed")
    return Bound(name, sent / bandwidth, "compiled", note)
