"""How often each part of a compiled program runs: loops' trip counts, and their products down the nesting.

XLA's own cost analysis counts a loop's body once, however often it runs. With layers in a scan that is 1 of 32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from maxllm.plan.hlo import Computation, Instruction, Module

_SAME_VALUE = ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start")


@dataclass(frozen=True)
class Executions:
    """Times a computation runs in one run of the program."""

    count: float
    exact: bool = True  # False: at least so often; a loop around it has a trip count that depends on the data
    loops: tuple[str, ...] = ()  # names of the loops around it (of the first of its callers), the outermost first
    fused: bool = False  # part of another instruction: what it reads and writes within does not touch memory

    def __add__(self, other: Executions) -> Executions:
        return Executions(
            self.count + other.count, self.exact and other.exact, self.loops or other.loops, self.fused and other.fused
        )


def executions(module: Module) -> Mapping[str, Executions]:
    """By computation; reductions' arithmetic and loops' conditions are not in it. Of a conditional, every branch is
    counted as often as the conditional: an upper bound."""
    found: dict[str, Executions] = {module.entry.name: Executions(1)}
    for computation in reversed(module.computations.values()):  # callers before what they call
        here = found.get(computation.name)
        if here is None:
            continue
        for instruction in computation:
            for name in instruction.called:
                each = Executions(here.count, here.exact, here.loops, here.fused or instruction.opcode == "fusion")
                if instruction.opcode == "while":
                    trips = trip_count(module, computation, instruction)
                    each = Executions(
                        here.count * (1 if trips is None else trips),
                        here.exact and trips is not None,
                        (*here.loops, instruction.name),
                        here.fused,
                    )
                found[name] = found[name] + each if name in found else each
    return found


@dataclass(frozen=True)
class Loop:
    name: str
    trips: int | None  # None: depends on the data, or was not understood
    depth: int  # loops around it
    body: str
    op_name: str


def loops(module: Module) -> list[Loop]:
    """Every loop that runs, in the order of the text."""
    runs = executions(module)
    return [
        Loop(
            each.name,
            trip_count(module, computation, each),
            len(runs[computation.name].loops),
            each.attributes["body"].lstrip("%"),
            each.op_name,
        )
        for computation, each in module.instructions()
        if each.opcode == "while" and computation.name in runs
    ]


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """Of a `while` in `computation`: what the compiler noted, or else ceil((bound - first) / step).

    The second for loops of the form `for (i = first; i < bound; i += step)` with all three constant, which is what a
    TPU's text has for a scan. None for others.
    """
    noted = loop.backend_config.get("known_trip_count", {}).get("n")
    if noted is not None:
        return int(noted)
    condition = module.computations[loop.attributes["condition"].lstrip("%")]
    body = module.computations[loop.attributes["body"].lstrip("%")]
    before = _Value(module, computation, computation.instructions[loop.operands[0]])
    test = _Value(module, condition, condition.root).source()
    if test.instruction.opcode != "compare" or test.instruction.attributes.get("direction") != "LT":
        return None
    counter, bound = (test.operand(index).source() for index in (0, 1))
    place = counter.place_in_carry(condition)
    if place is None:
        return None
    after = _Value(module, body, body.root)
    first = before.element(place).constant()
    step = after.element(place).step_from(body, place)
    limit = bound.constant()
    if limit is None and (carried := bound.place_in_carry(condition)) is not None:
        unchanged = after.element(carried).source().place_in_carry(body) == carried
        limit = before.element(carried).constant() if unchanged else None
    if first is None or limit is None or not step or step < 0:
        return None
    return max(0, math.ceil((limit - first) / step))


class _Value:
    """An instruction's result, followed through copies, tuples and fusions to where it is computed."""

    def __init__(self, module: Module, computation: Computation, instruction: Instruction, via: tuple = ()):
        self.module, self.computation, self.instruction = module, computation, instruction
        self.via = via  # the fusions that we are inside of: (computation, fusion) each

    def _same(self, name: str) -> _Value:
        return _Value(self.module, self.computation, self.computation.instructions[name], self.via)

    def operand(self, index: int) -> _Value:
        return self._same(self.instruction.operands[index])

    def source(self) -> _Value:
        """The instruction that computes this value: no copy, no fusion, no parameter of one."""
        instruction = self.instruction
        if instruction.opcode in _SAME_VALUE:
            return self.operand(0).source()
        if instruction.opcode == "fusion":
            inner = self.module.computations[instruction.called[0]]
            return _Value(self.module, inner, inner.root, (*self.via, (self.computation, instruction))).source()
        if instruction.opcode == "parameter" and self.via:
            computation, fusion = self.via[-1]
            outside = computation.instructions[fusion.operands[int(instruction.operands[0])]]
            return _Value(self.module, computation, outside, self.via[:-1]).source()
        if instruction.opcode == "get-tuple-element":
            whole = self.operand(0).source()
            if whole.instruction.opcode == "tuple":
                return whole.operand(self._index()).source()
        return self

    def _index(self) -> int:
        return int(self.instruction.attributes["index"])

    def element(self, index: int) -> _Value:
        """Of a tuple; the tuple itself where it is not built here."""
        whole = self.source()
        return whole.operand(index) if whole.instruction.opcode == "tuple" else whole

    def constant(self) -> int | None:
        source = self.source().instruction
        text = source.operands[0] if source.opcode == "constant" else ""
        return int(text) if text.lstrip("-").isdigit() else None

    def place_in_carry(self, computation: Computation) -> int | None:
        """Which element of a loop's carry this is, in the loop's condition or body; None if it is computed there."""
        whole = self.operand(0).source() if self.instruction.opcode == "get-tuple-element" else self
        ours = whole.instruction.opcode == "parameter" and whole.computation.name == computation.name
        return self._index() if ours and whole is not self else None

    def step_from(self, body: Computation, place: int) -> int | None:
        """n, where this is element `place` of the carry plus the constant n."""
        source = self.source()
        if source.instruction.opcode != "add":
            return None
        sides = [source.operand(index).source() for index in (0, 1)]
        steps = [side.constant() for side in sides if side.constant() is not None]
        carried = any(side.place_in_carry(body) == place for side in sides)
        return steps[0] if carried and len(steps) == 1 else None
