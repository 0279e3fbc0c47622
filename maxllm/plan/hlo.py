"""A reader of optimized HLO, a compiled program's text (`Compiled.as_text()`), as TPU, GPU and CPU compilers write it.

The grammar, from XLA's printer (`hlo_instruction.cc`, `shape_util.cc`, `layout.cc`):

    computation  = ["ENTRY "] "%" name " (" parameters ") -> " shape " {" NEWLINE {instruction NEWLINE} "}"
    instruction  = ["ROOT "] "%" name " = " shape " " opcode "(" operands ")" {", " key "=" value}
    shape        = dtype "[" sizes "]" ["{" minor_to_major [":" {letter "(" numbers ")"}] "}"]  |  "(" shapes ")"

A value is whatever stands between two commas outside all brackets and quotes. Attributes are read when asked for: most
of a text is backend configuration that nobody asks for.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# Bits of an element where it lies in memory by itself.
_BITS = {
    **{"pred": 8, "s2": 8, "u2": 8, "s4": 8, "u4": 8, "f4e2m1fn": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32},
    **{"u32": 32, "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128},
    **{"token": 0, "opaque": 0},
}
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}()\[\],]')  # quoted text is one mark, so that nothing within it counts
_COMMENT = re.compile(r"/\*.*?\*/")  # "/*index=5*/", in long tuples
_OPEN, _CLOSE = "{([", "})]"


@dataclass(frozen=True)
class Shape:
    """An array's element type, sizes and layout; or, with `parts`, a tuple of shapes."""

    dtype: str = ""
    sizes: tuple[int, ...] = ()
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()  # the outermost tile of a tiled layout: the one that pads
    memory_space: int = 0  # TPU: 1 is on-chip memory; 5 is the host's
    element_bits: int = 0  # of packed elements (s4 with E(4)); 0: as _BITS says
    parts: tuple[Shape, ...] | None = None

    @property
    def arrays(self) -> tuple[Shape, ...]:
        """The arrays in it, however deeply nested; itself if it is one."""
        return (self,) if self.parts is None else tuple(array for part in self.parts for array in part.arrays)

    @property
    def elements(self) -> int:
        return sum(math.prod(array.sizes) for array in self.arrays)

    @property
    def bytes(self) -> int:
        """Without padding."""
        return sum(_bytes(array, math.prod(array.sizes)) for array in self.arrays)

    @property
    def padded_bytes(self) -> int:
        """With the padding of a tiled layout: a TPU's bf16[3,100]{1,0:T(8,128)} takes 8 x 128 elements."""
        return sum(_bytes(array, math.prod(_padded(array))) for array in self.arrays)


def _bytes(array: Shape, elements: int) -> int:
    return -(-elements * (array.element_bits or _bits(array.dtype)) // 8)


def _bits(dtype: str) -> int:
    if dtype.startswith("f8"):  # f8e4m3fn, f8e5m2, f8e8m0fnu, ...
        return 8
    if dtype not in _BITS:
        raise ValueError(f"HLO element type {dtype} is not known")
    return _BITS[dtype]


def _padded(array: Shape) -> list[int]:
    """Sizes from the most major dimension to the most minor, the last ones rounded up to the tile's."""
    order = array.minor_to_major or range(len(array.sizes) - 1, -1, -1)
    sizes = [array.sizes[dimension] for dimension in order][::-1]
    sizes = [1] * (len(array.tile) - len(sizes)) + sizes
    first = len(sizes) - len(array.tile)
    return sizes[:first] + [-(-size // tile) * tile for size, tile in zip(sizes[first:], array.tile, strict=True)]


def parse_shape(text: str) -> Shape:
    """The shape that `text` is. Raises ValueError if it is something else."""
    text = _COMMENT.sub("", text).strip()
    if text.startswith("("):
        return Shape(parts=tuple(parse_shape(part) for part in _split(text[1:-1]) if part))
    dtype, bracket, rest = text.partition("[")
    sizes, closed, layout = rest.partition("]")
    if not bracket or not closed or not dtype.isalnum():
        raise ValueError(f"not an HLO shape: {text[:100]}")
    layout, _, more = layout.strip("{}").partition(":")
    letters = dict(re.findall(r"([A-Z])\(([^)]*)\)", more))  # T(8,128)(2,1)S(1)E(4): of the tiles, the first
    return Shape(
        dtype,
        tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size),
        tuple(int(dimension) for dimension in layout.split(",") if dimension),
        tuple(int(size) for size in letters.get("T", "").split(",") if size.isdigit()),
        int(letters.get("S", 0)),
        int(letters.get("E", 0)),
    )


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: Shape
    opcode: str
    operands: tuple[str, ...]  # names; a constant's or parameter's text in their place
    rest: str = field(repr=False)  # the attributes, unread
    root: bool = False

    @functools.cached_property
    def attributes(self) -> Mapping[str, str]:
        """As they are written: `{"channel_id": "2", "dimensions": "{0}", "custom_call_target": "__cudnn$fmha..."}`."""
        pairs = (part.partition("=") for part in _split(self.rest))
        return {key.strip(): _unquoted(value) for key, equals, value in pairs if equals}

    def numbers(self, key: str) -> tuple[int, ...]:
        """An attribute such as `dimensions={0,1}`; empty when absent."""
        return tuple(int(number) for number in self.attributes.get(key, "").strip("{}").split(",") if number.strip())

    @functools.cached_property
    def backend_config(self) -> Mapping[str, Any]:
        """What the compiler noted for itself; empty where it is absent or no JSON object (a TPU kernel's body)."""
        try:
            config = json.loads(self.attributes.get("backend_config", "{}"))
        except ValueError:
            return {}
        return config if isinstance(config, dict) else {}

    @functools.cached_property
    def metadata(self) -> Mapping[str, str]:
        """`op_name` is the path of JAX's transformations and functions that the instruction comes from."""
        return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', self.attributes.get("metadata", "")))

    @property
    def op_name(self) -> str:
        return self.metadata.get("op_name", "")

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations it runs: a fusion's, a loop's body, branches; not a reduction's `to_apply`."""
        keys = ["calls", "body", "true_computation", "false_computation", "branch_computations"]
        if self.opcode in ("call", "async-start"):
            keys.append("to_apply")
        values = (self.attributes.get(key, "") for key in keys)
        return tuple(name.strip().lstrip("%") for value in values for name in value.strip("{}").split(",") if name)


@dataclass(frozen=True)
class Computation:
    name: str
    instructions: Mapping[str, Instruction]  # by name, in the text's order
    entry: bool = False

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    @functools.cached_property
    def root(self) -> Instruction:
        return next((each for each in self if each.root), list(self)[-1])

    @functools.cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        return {int(each.operands[0]): each for each in self if each.opcode == "parameter"}


@dataclass(frozen=True)
class Module:
    name: str
    computations: Mapping[str, Computation]  # callees before their callers, the entry last: the printer's order

    @functools.cached_property
    def entry(self) -> Computation:
        return next(each for each in self.computations.values() if each.entry)

    def instructions(self) -> Iterator[tuple[Computation, Instruction]]:
        for computation in self.computations.values():
            for instruction in computation:
                yield computation, instruction


def parse(text: str) -> Module:
    """The module that `text` describes. Raises ValueError naming the line that it cannot read."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("HloModule "):
        raise ValueError(f"not the text of an HLO module: it begins with {text[:60]!r}")
    computations: dict[str, Computation] = {}
    header, body = None, []
    for number, line in enumerate(lines[1:], 2):
        if header is None:
            if line.endswith("{") and line.startswith(("%", "ENTRY ")):
                header, body = line, []
        elif line == "}" or line.startswith("}, execution_thread"):
            computation = _computation(header, body)
            computations[computation.name] = computation
            header = None
        elif line.startswith("  "):
            body.append((number, line.strip()))
        elif line.strip():  # a Mosaic kernel's attributes have line breaks in them
            body[-1] = (body[-1][0], body[-1][1] + line)
    if not any(each.entry for each in computations.values()):
        raise ValueError("the HLO text has no ENTRY computation")
    return Module(lines[0].split()[1].rstrip(","), computations)


def _computation(header: str, body: list[tuple[int, str]]) -> Computation:
    entry = header.startswith("ENTRY ")
    name = header.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
    instructions = {}
    for number, line in body:
        try:
            instruction = _instruction(line)
        except (ValueError, IndexError) as error:
            raise ValueError(f"line {number} of the HLO text: {error}: {line[:200]}") from error
        instructions[instruction.name] = instruction
    return Computation(name, instructions, entry)


def _instruction(line: str) -> Instruction:
    root = line.startswith("ROOT ")
    name, equals, rest = line.removeprefix("ROOT ").partition(" = ")
    if not equals:
        raise ValueError("no ' = '")
    shape, rest = _until_space(rest)
    opcode, parenthesis, rest = rest.partition("(")
    if not parenthesis or not opcode.replace("-", "").isalnum():
        raise ValueError("no opcode")
    operands, attributes = _until_closed(rest)
    return Instruction(
        name.lstrip("%"),
        parse_shape(shape),
        opcode,
        # A constant's value and a parameter's number stand where names would; "f32[2]{0} %name" is an older dialect.
        tuple(operand.split()[-1].lstrip("%") for operand in _split(_COMMENT.sub("", operands)) if operand.strip()),
        attributes.removeprefix(", "),
        root,
    )


def _until_space(text: str) -> tuple[str, str]:
    """Splits at the first space outside brackets: a tuple's shape has spaces in it."""
    if not text.startswith("("):
        first, _, rest = text.partition(" ")
        return first, rest
    inside, rest = _until_closed(text[1:])
    return f"({inside})", rest.lstrip()


def _until_closed(text: str) -> tuple[str, str]:
    """What comes before the bracket that closes one already open, and what comes after it."""
    depth = 0
    for mark in _MARKS.finditer(text):
        if mark[0] in _OPEN:
            depth += 1
        elif mark[0] in _CLOSE:
            if depth == 0:
                return text[: mark.start()], text[mark.end() :]
            depth -= 1
    raise ValueError("a bracket is not closed")


def _split(text: str) -> list[str]:
    """The parts between commas outside all brackets and quotes."""
    parts, depth, start = [], 0, 0
    for mark in _MARKS.finditer(text):
        if mark[0] in _OPEN:
            depth += 1
        elif mark[0] in _CLOSE:
            depth -= 1
        elif mark[0] == "," and depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [*parts, text[start:]]


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if value.startswith('"') else value
