"""Everything a plan reads from one program's text, read once."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass

from maxllm.plan.collectives import Collective, collectives
from maxllm.plan.flops import Flops, Formula, flops, splash
from maxllm.plan.hlo import Instruction, Module, parse
from maxllm.plan.loops import Loop, executions, loops
from maxllm.plan.traffic import memory_bytes
from maxllm.plan.types import Program

# Names by which attention kernels go: cuDNN's targets; of Pallas ones, the functions they come from.
_FUSED_ATTENTION = ("fmha", "splash", "flash", "attention")


@dataclass(frozen=True)
class Contents:
    """Of one run of the program on one device."""

    flops: Flops
    memory_bytes: float
    memory_exact: bool
    collectives: tuple[Collective, ...]
    loops: tuple[Loop, ...]
    fused_attention: Mapping[str, float]  # calls of attention kernels, by phase (forward, backward)

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Sentences: what the text does not say."""
        found = [
            f"{count:,.0f} calls of {target}: their FLOPs are unknown" for target, count in self.flops.unknown.items()
        ]
        if self.flops.by_formula:
            found.append(
                f"{self.flops.by_formula:.3g} FLOPs are a formula's: kernels whose shapes the text gives, and not what "
                "they skip; causal attention is taken as half of the square"
            )
        unbounded = [loop for loop in self.loops if loop.trips is None]
        if unbounded:
            found.append(
                f"{len(unbounded)} loop(s) whose trip count depends on the data, counted once: FLOPs and bytes are at "
                "least the figures given"
            )
        return tuple(found)


def read(program: Program, formula: Formula | None = None) -> Contents:
    """`formula`: FLOPs of custom calls that only the caller knows; of causal splash attention when not given."""
    return read_text(program.text, program.mesh, formula or splash())


def read_text(text: str, mesh: Mapping[str, int], formula: Formula | None = None) -> Contents:
    module = parse(text)
    runs = executions(module)
    memory, exact = memory_bytes(module, runs)
    return Contents(
        flops(module, formula, runs),
        memory,
        exact,
        tuple(collectives(module, mesh, runs)),
        tuple(loops(module)),
        _attention_calls(module, runs),
    )


def _attention_calls(module: Module, runs: Mapping) -> Mapping[str, float]:
    found: dict[str, float] = collections.defaultdict(float)
    for computation, instruction in module.instructions():
        if computation.name in runs and instruction.opcode == "custom-call" and _is_attention(instruction):
            found["backward" if _is_backward(instruction) else "forward"] += runs[computation.name].count
    return dict(found)


def _is_attention(instruction: Instruction) -> bool:
    target = instruction.attributes.get("custom_call_target", "")
    kernel = target == "tpu_custom_call" or target.startswith(("__cudnn$", "__gpu$", "mosaic_gpu"))
    return kernel and any(name in f"{target} {instruction.name} {instruction.op_name}" for name in _FUSED_ATTENTION)


def _is_backward(instruction: Instruction) -> bool:
    """By what the kernel does: a forward one that runs again on the way back is a forward one."""
    named = f"{instruction.attributes.get('custom_call_target', '')} {instruction.name}".lower()
    return any(mark in named for mark in ("backward", "bwd", "dq", "dkv", "vjp"))
