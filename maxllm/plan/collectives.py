"""What a compiled program sends between devices: how many bytes, how often, along which mesh axes."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass, replace

from maxllm.plan.hlo import Computation, Instruction, Module, Shape
from maxllm.plan.loops import Executions, executions
from maxllm.plan.replicas import Groups, mesh_axes_of, parse_groups, parse_pairs, smallest

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
)


@dataclass(frozen=True)
class Collective:
    """One collective of the program, with what one device has of it in one execution."""

    name: str
    kind: str  # one of KINDS
    dtype: str  # "bf16"; "bf16+f32" where several are sent together
    bytes: int  # of the full tensor: what an all-gather makes, a reduce-scatter takes, an all-reduce has
    wire_bytes: float  # that one device sends, in a ring
    group_size: int
    axes: str  # "fsdp", "data x fsdp", "part of fsdp"
    groups: Groups
    executions: float  # in one run of the program
    exact: bool  # False: at least so often
    phase: str  # forward, recompute, backward, update (all else of a step), unknown
    op_name: str
    channel_id: int | None

    def network_bytes(self, devices_per_host: int) -> float:
        """The share of `wire_bytes` that one device sends over the network between hosts, where the host's devices
        share the work evenly; 0 where no group leaves its host.

        A group that has d members on each of h hosts sends (h - 1) / h of the tensor into every host once, through d
        network cards: a lower bound that NCCL's rings over all cards reach.
        """
        return max((self._leaving(group, devices_per_host) for group in self.groups), default=0.0)

    def _leaving(self, group: tuple[int, ...], devices_per_host: int) -> float:
        members = collections.Counter(device // devices_per_host for device in group)
        if len(members) < 2:
            return 0.0
        hosts, here = len(members), min(members.values())
        if self.kind in ("collective-permute", "send", "collective-broadcast"):
            return float(self.wire_bytes)
        if self.kind in ("all-to-all", "ragged-all-to-all"):
            return self.bytes * (len(group) - here) / len(group)
        return wire(self.kind, self.bytes, hosts) / here


@dataclass(frozen=True)
class Total:
    """Collectives of one kind along the same axes, over one run of the program."""

    instructions: int
    executions: float
    bytes: float
    wire_bytes: float
    exact: bool


def wire(kind: str, full_bytes: float, size: int) -> float:
    """Bytes that each of `size` devices sends for a tensor of `full_bytes`, in a ring (Patarasuk and Yuan 2009; the
    factors of NCCL's performance notes): (n-1)/n of it to gather, scatter or exchange, twice that to all-reduce.

    All-to-all and permutes: `full_bytes` is what one device holds; a permute sends all of it.
    """
    if kind in ("collective-permute", "send", "collective-broadcast"):
        return float(full_bytes)
    return (2 if kind == "all-reduce" else 1) * full_bytes * (size - 1) / size


def collectives(
    module: Module, mesh: Mapping[str, int], runs: Mapping[str, Executions] | None = None
) -> list[Collective]:
    """Every collective that the program runs, each counted once.

    A `-start` counts and its `-done` does not. A TPU spreads one collective over several fusions, which repeat it
    under one channel id and one chain id; of those, the one that starts it counts. `mesh`: sizes of its axes, in order.
    """
    runs = executions(module) if runs is None else runs
    loop_names = {each.name: each.op_name for _, each in module.instructions() if each.opcode == "while"}
    found = []
    for computation, instruction in module.instructions():
        kind = _kind(instruction)
        if kind is None or computation.name not in runs or _continues(computation, instruction):
            continue
        each = _read(computation, instruction, kind, mesh, runs[computation.name])
        if not each.op_name and runs[computation.name].loops:  # combined ones have lost their name: the loop's says it
            each = replace(each, phase=phase(loop_names[runs[computation.name].loops[-1]]))
        found.append(each)
    return found


def _kind(instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in KINDS else None


def _continues(computation: Computation, instruction: Instruction) -> bool:
    """Whether this is a later step of a TPU's collective that another fusion starts."""
    if "chain_id" not in instruction.attributes.get("frontend_attributes", ""):
        return False
    targets = [each.attributes.get("custom_call_target") for each in computation if each.opcode == "custom-call"]
    return "AsyncCollectiveStart" not in targets


def _read(
    computation: Computation, instruction: Instruction, kind: str, mesh: Mapping[str, int], run: Executions
) -> Collective:
    devices = 1
    for size in mesh.values():
        devices *= size
    tensor = _tensor(computation, instruction, kind)
    attributes = instruction.attributes
    if kind in ("collective-permute", "send"):
        groups = parse_pairs(attributes.get("source_target_pairs", attributes.get("frontend_attributes", "")))
        axes, size = smallest(groups, mesh), 2
    else:
        groups = parse_groups(_groups_text(attributes), devices)
        axes, size = mesh_axes_of(groups, mesh), max(map(len, groups))
    channel = attributes.get("channel_id")
    return Collective(
        instruction.name,
        kind,
        "+".join(dict.fromkeys(array.dtype for array in tensor.arrays if array.bytes)),
        tensor.bytes,
        wire(kind, tensor.bytes, size),
        size,
        axes,
        groups,
        run.count,
        run.exact,
        phase(instruction.op_name),
        instruction.op_name,
        int(channel) if channel else None,
    )


def _groups_text(attributes: Mapping[str, str]) -> str:
    """A mesh whose devices are not in order has a comma in it: mesh['a'=2,'b'=2], device_ids=(...) {'a'}."""
    text = attributes.get("replica_groups", "{}")
    return f"{text}, device_ids={attributes['device_ids']}" if "device_ids" in attributes else text


def _tensor(computation: Computation, instruction: Instruction, kind: str) -> Shape:
    """The full tensor: the larger of what goes in and what comes out."""
    inputs = Shape(parts=tuple(computation.instructions[name].shape for name in instruction.operands))
    if kind in ("all-gather", "collective-broadcast"):
        out = instruction.shape
        if not instruction.opcode.endswith("-start"):
            return out
        # (what goes in, what comes out, perhaps semaphores): each itself a tuple where several are gathered together.
        return out.parts[1] if out.parts is not None else out
    if kind == "send":
        return inputs.parts[0]
    if kind == "ragged-all-to-all":
        return inputs.parts[0]  # then the output's buffer, offsets and sizes
    if kind == "collective-permute":
        return replace(inputs, parts=inputs.parts[:1] if len(inputs.parts) in (3, 4) else inputs.parts)
    return inputs


def phase(op_name: str) -> str:
    """Which part of a train step an instruction comes from, by the path of JAX's transformations.

    "recompute" is what rematerialisation does again; where the compiler has merged it with a gradient's own work, the
    name that survives decides.
    """
    if not op_name:
        return "unknown"
    if "rematted_computation" in op_name:
        return "recompute"
    if "transpose(" in op_name:
        return "backward"
    return "forward" if "jvp(" in op_name else "update"


def totals(found: list[Collective]) -> dict[tuple[str, str], Total]:
    """By (kind, axes), the most bytes on the wire first."""
    groups = collections.defaultdict(list)
    for each in found:
        groups[each.kind, each.axes].append(each)
    summed = {
        key: Total(
            len(members),
            sum(each.executions for each in members),
            sum(each.bytes * each.executions for each in members),
            sum(each.wire_bytes * each.executions for each in members),
            all(each.exact for each in members),
        )
        for key, members in groups.items()
    }
    return dict(sorted(summed.items(), key=lambda item: -item[1].wire_bytes))
