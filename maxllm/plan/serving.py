"""A plan of serving: what stays on a device, what the largest prefill and a full decode step need beside it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
from rich.console import Console

from maxllm.config.model import ModelConfig
from maxllm.config.serve import EngineConfig
from maxllm.models import count_parameters
from maxllm.models.decoder import KVCache
from maxllm.plan.contents import Contents, read
from maxllm.plan.memory import USABLE, Fit, Part, bytes_per_device
from maxllm.plan.programs import DoesNotFit, Say, engine_for, serve_programs
from maxllm.plan.report import memory_table, verdict
from maxllm.plan.roofline import Roofline, roofline
from maxllm.plan.types import Machine, Program


@dataclass(frozen=True)
class ServingPlan:
    machine: Machine
    parts: list[Part]
    fit: Fit
    programs: list[tuple[Program, Contents, Roofline]]
    slots: int
    refusal: str = ""

    @property
    def fits(self) -> bool:
        return self.fit.fits is not False


def plan_serving(
    model: ModelConfig, config: EngineConfig, machine: Machine, say: Say = lambda line: None
) -> ServingPlan:
    """Compiles the longest prefill, its insert and a decode step of all slots. Raises UserError for what cannot be."""
    engine = engine_for(model, config, machine)
    weights = bytes_per_device(engine.params)
    # The engine splits it by kv heads over the tensor axis, which divides them.
    shape = jax.eval_shape(lambda: KVCache.zeros(model, config.slots, engine.max_length, engine.dtype))
    cache = sum(leaf.size * leaf.dtype.itemsize for leaf in shape) // config.tensor
    parts = [
        Part("parameters", weights, "layout", note=config.dtype),
        Part("KV cache", cache, "layout", note=f"{config.slots} slots x {engine.max_length} positions"),
    ]
    programs: list[tuple[Program, Contents, Roofline]] = []
    usable = int(machine.hbm_bytes * USABLE) if machine.hbm_bytes else None
    try:
        for program in serve_programs(engine, config, machine, say=say):
            contents = read(program)
            tokens, flops = _work(program.name, model, config)
            found = roofline(contents, machine, tokens=tokens, model_flops=flops, devices=program.devices)
            programs.append((program, contents, found))
            beside = program.memory.temporaries + program.memory.outputs - program.memory.aliased
            parts.append(Part(program.name, beside, "compiled", note="temporaries, and results that replace nothing"))
    except DoesNotFit as refused:
        needed = weights + cache + (refused.needed or 0)
        return ServingPlan(
            machine, parts, Fit(needed, refused.limit or usable, False), programs, config.slots, f"{refused}"
        )
    # One program runs at a time; a prefilled prompt waits to be inserted meanwhile.
    needed = weights + cache + max(part.bytes or 0 for part in parts[2:])
    fits = None if usable is None else needed <= usable
    return ServingPlan(machine, parts, Fit(needed, usable, fits), programs, config.slots)


def _work(name: str, model: ModelConfig, config: EngineConfig) -> tuple[int, float]:
    """Tokens that a program computes, and their FLOPs: two a parameter that multiplies, attention aside."""
    kind, *sizes = name.split()
    tokens = int(sizes[0]) if kind in ("prefill", "generate") else 1
    looked_up = 0 if model.tie_embeddings else model.vocab_size * model.hidden_size
    # A prefill's head is computed for the last token only.
    head = model.vocab_size * model.hidden_size if kind == "prefill" else 0
    flops = 2.0 * (count_parameters(model) - looked_up - head) * tokens if kind != "insert" else 0.0
    return tokens, flops


def as_json(plan: ServingPlan) -> dict[str, Any]:
    return {
        "machine": dataclasses.asdict(plan.machine) | {"peak_flops": dict(plan.machine.peak_flops)},
        "fits": plan.fit.fits,
        "memory": {
            "needed": plan.fit.needed,
            "usable": plan.fit.usable,
            "parts": [dataclasses.asdict(part) for part in plan.parts],
        },
        "refusal": plan.refusal,
        "programs": {
            program.name: {
                "memory": dataclasses.asdict(program.memory),
                "flops": contents.flops.total,
                "hbm_bytes_moved": contents.memory_bytes,
                "roofline": dataclasses.asdict(found),
                "seconds": {"lower": program.lower_seconds, "compile": program.compile_seconds},
            }
            for program, contents, found in plan.programs
        },
    }


def show(plan: ServingPlan, console: Console) -> None:
    machine = plan.machine
    console.print(f"[bold]{machine.name}[/]: {machine.kind}", highlight=False)
    console.print(memory_table("Memory of one device", plan.parts, plan.fit, "the largest of the programs counts"))
    console.print(verdict(plan.fit, machine), highlight=False)
    if plan.refusal:
        console.print(f"the compiler: {plan.refusal}", highlight=False, markup=False)
    for program, _, found in plan.programs:
        if not found.step_seconds:
            continue
        line = f"{program.name}: at least {found.step_seconds * 1e3:.2f} ms, bound by {found.bound_by}"
        if program.name.startswith("generate"):
            line += f": at most {plan.slots / found.step_seconds:,.0f} tokens/s from {plan.slots} slots"
        console.print(line, highlight=False, markup=False)
