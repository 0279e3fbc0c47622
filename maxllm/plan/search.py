"""The layout to train with on a machine: meshes, remat and micro-batches, pruned by formula, then compiled.

A compiled result is kept on disk under a name made of everything it depends on, so that a search that was stopped goes
on, and one that is repeated only reads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

import maxllm
from maxllm.config.errors import UserError
from maxllm.config.parallel import AXES
from maxllm.config.train import TrainConfig
from maxllm.parallel.rules import check_layout
from maxllm.plan.estimate import Estimate, estimate
from maxllm.plan.memory import USABLE
from maxllm.plan.programs import Say, mesh_of
from maxllm.plan.report import as_json as plan_as_json
from maxllm.plan.report import plan_training
from maxllm.plan.types import Machine

REMAT = ("dots", "attention", "full")  # from the fastest to the smallest
_LONGEST_TENSOR = 8  # beyond, a matrix product's share is too small to fill a device, even where the links allow it
_SOURCES = ("batch.py", "kernels", "models", "objectives", "optim", "parallel", "plan", "quant", "train")


@dataclass(frozen=True)
class Candidate:
    overrides: tuple[str, ...]
    config: TrainConfig
    mesh: dict[str, int]
    estimate: Estimate


@dataclass(frozen=True)
class Tried:
    candidate: Candidate
    told: dict[str, Any]  # report.as_json of it
    cached: bool

    @property
    def fits(self) -> bool:
        return self.told["fits"] is not False

    @property
    def rank(self) -> tuple[float, float]:
        roof = self.told.get("roofline") or {}
        return roof.get("step_seconds") or math.inf, roof.get("pessimistic_seconds") or math.inf


@dataclass(frozen=True)
class Search:
    machine: Machine
    tried: list[Tried]
    refused: dict[str, int]  # why -> how many layouts were never compiled for that
    not_compiled: int  # that would have been next

    @property
    def best(self) -> Tried | None:
        return min((one for one in self.tried if one.fits), key=lambda one: one.rank, default=None)

    @property
    def fits(self) -> bool:
        return self.best is not None


def search(
    config: TrainConfig,
    machine: Machine,
    *,
    candidates: int = 6,
    utilisation: float = 1.0,
    say: Say = lambda line: None,
) -> Search:
    """Compiles the `candidates` most promising layouts. Model, data, optimizer and dtype stay as `config` says.

    Raises UserError if not one layout can hold the model and split the batch.
    """
    refused: dict[str, int] = {}
    possible = list(_possible(config, machine, refused))
    if not possible:
        reasons = "; ".join(f"{count} x {why}" for why, count in sorted(refused.items(), key=lambda item: -item[1])[:3])
        raise UserError(f"--search on {machine.name}: no layout can be had ({reasons})")
    possible.sort(key=lambda one: (one.estimate.seconds or 0.0, one.estimate.memory))
    chosen = _varied(possible, candidates)
    say(f"{len(possible)} layouts may fit, {sum(refused.values())} cannot; compiling {len(chosen)}")
    tried = [_tried(one, machine, utilisation, say) for one in chosen]
    return Search(machine, tried, refused, len(possible) - len(chosen))


def _possible(config: TrainConfig, machine: Machine, refused: dict[str, int]) -> Iterator[Candidate]:
    usable = machine.hbm_bytes and machine.hbm_bytes * USABLE
    for sizes in _meshes(config, machine):
        for remat in REMAT:
            for steps in _accumulations(config, sizes):
                changes = [f"mesh.{axis}={sizes[axis]}" for axis in AXES if sizes[axis] > 1 or axis == "fsdp"]
                changes += [f"compute.remat={remat}", f"train.accumulation_steps={steps}"]
                values = config.model_dump()
                values["mesh"] |= sizes
                values["compute"]["remat"] = remat
                values["train"]["accumulation_steps"] = steps
                try:
                    changed = TrainConfig.model_validate(values)
                    check_layout(
                        changed.model, changed.mesh, changed.data.batch_size // steps, changed.data.sequence_length
                    )
                except (UserError, ValidationError) as error:
                    why = str(error).split(";")[0].splitlines()[0]
                    refused[why] = refused.get(why, 0) + 1
                    continue
                mesh = mesh_of(changed.mesh, machine)
                found = estimate(changed, mesh, machine)
                if usable and found.memory > usable:
                    why = f"needs more than the {usable / 1e9:.1f} GB usable, by formula"
                    refused[why] = refused.get(why, 0) + 1
                    continue
                yield Candidate(tuple(changes), changed, mesh, found)


def _meshes(config: TrainConfig, machine: Machine) -> Iterator[dict[str, int]]:
    """Every sensible way to lay the axes over the machine: `tensor` within a host or slice, `stage` only between."""
    fast = machine.devices_per_host
    experts = getattr(config.model, "num_experts", None) or 1
    for tensor in _divisors(min(fast, _LONGEST_TENSOR)):
        for stage in _divisors(min(machine.hosts, config.model.num_layers)):
            if config.model.num_layers % stage or machine.devices % (tensor * stage):
                continue
            left = machine.devices // (tensor * stage)
            for expert in _divisors(math.gcd(experts, left)):
                for data in {1, machine.hosts // stage} | ({left // expert} if machine.hosts == 1 else set()):
                    if not data or (left // expert) % data:
                        continue
                    rest = left // expert // data
                    for context in _contexts(config, rest, data * expert):
                        if config.mesh.compress != "none" and data == 1:
                            continue
                        yield dict(zip(AXES, (data, stage, rest // context, expert, context, tensor), strict=True))


def _contexts(config: TrainConfig, rest: int, others: int) -> list[int]:
    """1, or where there are fewer rows than devices, the fewest devices a row that give every device work."""
    rows = config.data.batch_size
    if rest * others <= rows:
        return [1]
    return [context for context in _divisors(rest) if rest // context * others <= rows][:1] or [1]


def _accumulations(config: TrainConfig, sizes: dict[str, int]) -> list[int]:
    """Powers of two that leave every device at least a row; with stages, at least as many as keep them busy."""
    ways = sizes["data"] * sizes["fsdp"] * sizes["expert"]
    rows = config.data.batch_size
    found = [steps for steps in (1, 2, 4, 8, 16, 32, 64, 128) if rows % steps == 0 and rows // steps >= ways]
    return [steps for steps in found if steps >= sizes["stage"]] or found[-1:] or [1]


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _varied(possible: list[Candidate], count: int) -> list[Candidate]:
    """The fastest by formula, at most two of each mesh: formulas are least sure of what differs within one."""
    chosen, seen = [], {}
    for one in possible:
        mesh = tuple(one.mesh.values())
        if len(chosen) < count and seen.setdefault(mesh, 0) < 2:
            seen[mesh] += 1
            chosen.append(one)
    return chosen


# Compiled results on disk -----------------------------------------------------------------------


def _tried(one: Candidate, machine: Machine, utilisation: float, say: Say) -> Tried:
    file = _cache() / f"{_name(one.config, machine)}.json"
    if file.exists():
        return Tried(one, json.loads(file.read_text()), True)
    say(f"trying {' '.join(one.overrides)}")
    try:
        told = plan_as_json(plan_training(one.config, machine, utilisation=utilisation, say=say))
    except UserError as error:
        return Tried(one, {"fits": False, "refusal": str(error), "memory": {"needed": None, "usable": None}}, False)
    told = json.loads(json.dumps(told, default=str))
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(told))
    partial.replace(file)
    return Tried(one, told, False)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maxllm" / "plan"


def _name(config: TrainConfig, machine: Machine) -> str:
    """A digest of what the compiled step depends on: settings, machine, compilers, and our own source."""
    settings = config.model_dump(mode="json", exclude={"mesh_rules"})
    settings["data"].pop("sources")
    for key in ("run_dir", "log_every", "checkpoint_every", "keep_checkpoints", "eval_every", "eval_batches"):
        settings["train"].pop(key, None)
    told = [settings, dataclasses.asdict(machine) | {"peak_flops": dict(machine.peak_flops)}, _versions()]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _versions() -> list[str]:
    packages = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda13-pjrt")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} {os.environ.get('TPU_LIBRARY_PATH', '') if package == 'libtpu' else ''}")
    digest = hashlib.sha256()
    root = Path(maxllm.__file__).parent
    for name in _SOURCES:
        for file in sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]:
            digest.update(file.read_bytes() if file.exists() else b"")
    return [*found, digest.hexdigest()]


# Telling ----------------------------------------------------------------------------------------


def as_json(found: Search) -> dict[str, Any]:
    best = found.best
    return {
        "machine": found.machine.name,
        "best": best and {"overrides": list(best.candidate.overrides), "plan": best.told},
        "tried": [
            {"overrides": list(one.candidate.overrides), "cached": one.cached, "plan": one.told} for one in found.tried
        ],
        "refused": found.refused,
        "not_compiled": found.not_compiled,
    }


def show(found: Search, console: Console) -> None:
    table = Table(title=f"Tried on {found.machine.name}", title_justify="left", box=None, pad_edge=False)
    for name in ("overrides", "GB needed", "step s", "bound by", ""):
        table.add_column(name, justify="left" if name in ("overrides", "bound by", "") else "right")
    for one in sorted(found.tried, key=lambda one: (not one.fits, one.rank)):
        roof = one.told.get("roofline") or {}
        needed = one.told["memory"]["needed"]
        table.add_row(
            " ".join(one.candidate.overrides),
            f"{needed / 1e9:.2f}" if needed else "unknown",
            f"{roof['step_seconds']:.3f}" if roof.get("step_seconds") else "unknown",
            roof.get("bound_by", ""),
            ("" if one.fits else "does not fit") + (" (from an earlier search)" if one.cached else ""),
        )
    console.print(table)
    for why, count in sorted(found.refused.items(), key=lambda item: -item[1])[:8]:
        console.print(f"not tried, {count}: {why}", highlight=False, markup=False)
    if found.not_compiled:
        console.print(f"not compiled, slower by formula: {found.not_compiled}; --candidates N compiles more")
    if found.best is None:
        console.print("[red]nothing that was tried fits[/]")
        return
    console.print(f"[green]best[/]: {' '.join(found.best.candidate.overrides)}", highlight=False, soft_wrap=True)
