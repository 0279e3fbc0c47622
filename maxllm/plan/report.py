"""A plan: what was compiled, what follows from it by formula, and what nobody knows; as a table and as JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from maxllm.config.errors import UserError
from maxllm.config.train import TrainConfig
from maxllm.parallel.mesh import make_mesh
from maxllm.plan import targets
from maxllm.plan.collectives import totals
from maxllm.plan.contents import Contents, read
from maxllm.plan.cost import Cost, cost, expected_tokens_per_second
from maxllm.plan.memory import USABLE, Fit, Part, bytes_per_device, fit, train_parts
from maxllm.plan.programs import DoesNotFit, Say, train_arguments, train_program
from maxllm.plan.roofline import Roofline, roofline
from maxllm.plan.types import Machine, Program
from maxllm.train.flops import flops_per_data_token

GB = 1e9


@dataclass(frozen=True)
class Plan:
    """Of training. `program` None: it does not fit, and the compiler said so."""

    machine: Machine
    config: TrainConfig
    mesh: dict[str, int]
    parts: list[Part]
    fit: Fit
    program: Program | None
    contents: Contents | None
    roofline: Roofline | None
    cost: Cost | None
    refusal: str = ""  # the compiler's words

    @property
    def fits(self) -> bool:
        """Unknown counts as yes: a CPU's memory is not ours to judge."""
        return self.fit.fits is not False


def plan_training(
    config: TrainConfig,
    machine: Machine,
    *,
    tokens: float | None = None,
    utilisation: float = 1.0,
    mfu: float | None = None,
    say: Say = lambda line: None,
) -> Plan:
    """Compiles the training step for `machine` and reads it. `tokens`: of the whole run; the config's when None.

    `utilisation`: see AcceleratorPricesConfig; `mfu`: a measured one instead. Raises UserError for what cannot be.
    """
    mesh = make_mesh(config.mesh, targets.devices(machine))
    _, state, batch = train_arguments(config, mesh)
    try:
        program = train_program(config, machine, say)
    except DoesNotFit as refused:
        parts = train_parts(config, mesh, state, batch, None)
        needed = (refused.needed or 0) + bytes_per_device((state, batch))
        usable = refused.limit or int((machine.hbm_bytes or 0) * USABLE)
        return Plan(
            machine, config, dict(mesh.shape), parts, Fit(needed, usable, False), None, None, None, None, str(refused)
        )
    parts = train_parts(config, mesh, state, batch, program.memory)
    say("reading the compiled program")
    contents = read(program)
    per_step = config.data.batch_size * config.data.sequence_length
    per_token = flops_per_data_token(config, config.data.sequence_length)
    roof = roofline(contents, machine, tokens=per_step, model_flops=per_token * per_step, devices=mesh.size, bubble=0.0)
    try:
        speed, basis = expected_tokens_per_second(
            machine,
            flops_per_token=per_token,
            roofline_tokens_per_second=roof.tokens_per_second,
            utilisation=utilisation,
            mfu=mfu,
        )
        price = cost(tokens or per_step * config.train.steps, speed, machine, basis)
    except UserError:
        if mfu is not None:
            raise
        price = None  # a CPU: nothing says how fast it is
    return Plan(machine, config, dict(mesh.shape), parts, fit(program.memory, machine), program, contents, roof, price)


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values: bytes, seconds, FLOPs; every figure of memory with its source."""
    program, contents = plan.program, plan.contents
    told: dict[str, Any] = {
        "machine": dataclasses.asdict(plan.machine) | {"peak_flops": dict(plan.machine.peak_flops)},
        "mesh": plan.mesh,
        "batch_size": plan.config.data.batch_size,
        "sequence_length": plan.config.data.sequence_length,
        "accumulation_steps": plan.config.train.accumulation_steps,
        "remat": plan.config.compute.remat,
        "fits": plan.fit.fits,
        "memory": {
            "needed": plan.fit.needed,
            "usable": plan.fit.usable,
            "parts": [dataclasses.asdict(part) for part in plan.parts],
        },
        "refusal": plan.refusal,
    }
    if program and contents and plan.roofline:
        told["memory"] |= {"compiler": dataclasses.asdict(program.memory)}
        told |= {
            "seconds": {"lower": program.lower_seconds, "compile": program.compile_seconds},
            "flops": dataclasses.asdict(contents.flops),
            "hbm_bytes_moved": contents.memory_bytes,
            "collectives": [
                {"kind": kind, "axes": axes} | dataclasses.asdict(total)
                for (kind, axes), total in totals(list(contents.collectives)).items()
            ],
            "fused_attention": dict(contents.fused_attention),
            "roofline": dataclasses.asdict(plan.roofline),
        }
    if plan.cost:
        told["cost"] = dataclasses.asdict(plan.cost) | {"days": plan.cost.days}
    return told


def show(plan: Plan, console: Console) -> None:
    """The plan for a reader: memory, what is sent, what bounds the step, time and money; then what is not known."""
    machine = plan.machine
    sizes = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    tokens = plan.config.data.batch_size * plan.config.data.sequence_length
    console.print(
        f"[bold]{machine.name}[/]: {machine.devices} x {machine.kind}, {sizes}; a step is "
        f"{plan.config.data.batch_size} x {plan.config.data.sequence_length} = {tokens:,} tokens in "
        f"{plan.config.train.accumulation_steps} micro-batch(es), remat {plan.config.compute.remat}",
        highlight=False,
    )
    if (stages := plan.mesh.get("stage", 1)) > 1:
        schedule = plan.config.pipeline.described(stages, plan.config.train.accumulation_steps)
        console.print(
            f"pipeline: {schedule}; the compiled loops make these ticks, so all below counts it", highlight=False
        )
    console.print(memory_table("Memory of one device", plan.parts, plan.fit))
    console.print(verdict(plan.fit, machine), highlight=False)
    if plan.refusal:
        console.print(f"the compiler: {plan.refusal}", highlight=False, markup=False)
    if plan.contents and plan.roofline and plan.program:
        console.print(_sent(plan.contents))
        _speed(plan, console)


def memory_table(
    title: str, parts: list[Part], found: Fit, needed: str = "all of these, inner parts counted once"
) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("GB", justify="right")
    table.add_column("known by")
    table.add_column("")
    for part in parts:
        indent = "  " if part.within else ""
        size = "unknown" if part.bytes is None else _gigabytes(part.bytes)
        table.add_row(f"{indent}{part.name}", size, part.source, part.note)
    table.add_row("[bold]needed[/]", f"[bold]{_gigabytes(found.needed)}[/]", "", needed)
    return table


def _gigabytes(count: int) -> str:
    """Three digits behind the point; more where they would all be zeros."""
    return f"{count / GB:.3f}" if count >= 1e6 else f"{count / GB:.6f}"


def verdict(found: Fit, machine: Machine) -> str:
    if found.fits is None or found.usable is None:
        return f"the memory of {machine.kind} is not known: whether it fits is not said"
    of = f"{found.needed / GB:.2f} of {found.usable / GB:.2f} GB"
    if found.fits:
        return f"[green]fits[/]: {of} usable ({USABLE:.0%} of the device's memory, an assumption)"
    return f"[red]does not fit[/]: needs {of} usable"


def _sent(contents: Contents) -> Table:
    table = Table(title="Sent between devices in a step", title_justify="left", box=None, pad_edge=False)
    for name in ("collective", "along", "in the program", "times", "GB of full tensors", "GB sent by a device"):
        table.add_column(name, justify="left" if name in ("collective", "along") else "right")
    found = totals(list(contents.collectives))
    for (kind, axes), total in sorted(found.items(), key=lambda item: -item[1].wire_bytes):
        more = "" if total.exact else "at least "
        table.add_row(
            kind,
            axes,
            str(total.instructions),
            f"{more}{total.executions:,.0f}",
            f"{total.bytes / GB:.3f}",
            f"{total.wire_bytes / GB:.3f}",
        )
    if not found:
        table.add_row("nothing", "", "", "", "", "")
    return table


def _speed(plan: Plan, console: Console) -> None:
    roof, contents, program = plan.roofline, plan.contents, plan.program
    assert roof and contents and program
    flops = contents.flops
    ratio = f", {roof.hardware_to_model_flops:.2f} x the model's" if roof.hardware_to_model_flops else ""
    say = lambda line: console.print(line, highlight=False, markup=False)  # noqa: E731
    least = "" if flops.exact and not flops.unknown else "at least "
    say(f"FLOPs of a device and step: {least}{flops.total:.3g}{ratio}")
    if contents.fused_attention:
        calls = ", ".join(f"{count:.0f} {phase}" for phase, count in contents.fused_attention.items())
        say(f"fused attention kernels: {calls}")
    for bound in roof.bounds:
        seconds = "unknown" if bound.seconds is None else f"{bound.seconds:.3f} s"
        say(f"  {bound.name}: {seconds} ({bound.source}{'; ' if bound.note else ''}{bound.note})")
    if roof.step_seconds:
        ceiling = f", MFU at most {roof.mfu_ceiling:.1%}" if roof.mfu_ceiling else ""
        say(
            f"a step takes at least {roof.step_seconds:.3f} s, bound by {roof.bound_by} "
            f"({roof.pessimistic_seconds:.3f} s if nothing overlaps); at most {roof.tokens_per_second:,.0f} tokens/s, "
            f"{roof.tokens_per_second_per_device:,.0f} a device{ceiling}"
        )
    for note in roof.notes:
        say(f"note: {note}")
    if plan.cost:
        money = "no price is known" if plan.cost.dollars is None else f"${plan.cost.dollars:,.0f}"
        say(
            f"{plan.cost.tokens:.4g} tokens: {plan.cost.days:,.1f} days, {plan.cost.device_hours:,.0f} device hours, "
            f"{money}, at {plan.cost.tokens_per_second:,.0f} tokens/s ({plan.cost.basis})"
        )
    say(f"traced in {program.lower_seconds:.1f} s, compiled in {program.compile_seconds:.1f} s")
