"""Bytes that a compiled program reads from and writes to a device's main memory (HBM), loops multiplied out.

As XLA's HloCostAnalysis counts: every instruction that is not within a fusion reads its operands and writes its result
once. Slices are as large as what they take, updates in place as large as what they put. Arrays in on-chip memory (a
TPU's S(1)) and on the host (S(5)) cost nothing here. Caches are not considered: small arrays that a GPU's L2 holds are
counted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from maxllm.plan.hlo import Computation, Instruction, Module, Shape
from maxllm.plan.loops import Executions, executions

_NO_TRAFFIC = frozenset(
    """parameter constant tuple get-tuple-element bitcast while conditional call after-all add-dependency partition-id
    replica-id opt-barrier domain async-start async-update async-done send-done recv recv-done""".split()
)
_MARKERS = (
    "AllocateBuffer",
    "ConcatBitcast",
    "AssumeGatherIndicesInBound",
    "AsyncCollectiveStart",
    "AsyncCollectiveDone",
)
_PART_OF_OPERAND = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "copy", "convert", "reshape", "transpose")


def memory_bytes(module: Module, runs: Mapping[str, Executions] | None = None) -> tuple[float, bool]:
    """Of one run of the program on one device, and whether that is exact (False: at least so many)."""
    runs = executions(module) if runs is None else runs
    total, exact = 0.0, True
    for name, run in runs.items():
        if run.fused:
            continue
        computation = module.computations[name]
        bytes_once = sum(bytes_of(module, computation, instruction) for instruction in computation)
        total += bytes_once * run.count
        exact &= run.exact or not bytes_once
    return total, exact


def bytes_of(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Of one execution of an instruction that is in no fusion. What an `async-start` calls is counted there."""
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith("-done"):
        return 0
    if opcode == "custom-call" and instruction.attributes.get("custom_call_target") in _MARKERS:
        return 0
    if opcode == "fusion":
        return _fusion(module, computation, instruction)
    result = _in_memory(instruction.shape)
    operands = [_in_memory(computation.instructions[name].shape) for name in instruction.operands]
    if opcode.endswith("-start"):  # the result repeats what goes in
        return max(result, sum(operands)) if opcode == "all-reduce-start" else result
    if opcode in _PART_OF_OPERAND:
        return 2 * result
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2 * operands[-1 if opcode == "scatter" else 1]
    return result + sum(operands)


def _in_memory(shape: Shape) -> int:
    return sum(array.padded_bytes for array in shape.arrays if array.memory_space == 0)


def _fusion(module: Module, computation: Computation, fusion: Instruction) -> int:
    inner = module.computations[fusion.called[0]]
    updates = any(each.opcode == "dynamic-update-slice" for each in _results(inner))
    total = 0
    for position, name in enumerate(fusion.operands):
        whole = _in_memory(computation.instructions[name].shape)
        parameter = inner.parameters.get(position)
        if whole and parameter is not None:
            total += min(whole, _read(inner, parameter.name))
    if not updates:
        return total + _in_memory(fusion.shape)
    written = 0
    for result, out in zip(_results(inner), fusion.shape.arrays, strict=False):
        if out.memory_space == 0:
            update = result.opcode == "dynamic-update-slice"
            written += inner.instructions[result.operands[1]].shape.padded_bytes if update else out.padded_bytes
    return total + written


def _results(inner: Computation) -> list[Instruction]:
    """The instructions whose values a fusion returns, seen through views."""
    roots = [inner.root]
    if inner.root.opcode == "tuple":
        roots = [inner.instructions[name] for name in inner.root.operands]
    found = []
    for root in roots:
        while root.opcode in _VIEWS:
            root = inner.instructions[root.operands[0]]
        found.append(root)
    return found


def _read(inner: Computation, name: str) -> int:
    """How much of a parameter a fusion reads: what its slices take, nothing where it is updated, else all of it."""
    total = 0
    for user in inner:
        if name not in user.operands:
            continue
        if user.opcode in _PART_OF_OPERAND and user.operands[0] == name:
            total += user.shape.padded_bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode in _VIEWS:
            total += _read(inner, user.name)
        else:
            return inner.instructions[name].shape.padded_bytes
    return total
