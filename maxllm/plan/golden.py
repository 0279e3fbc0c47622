"""Golden counts: what the compilers made of each preset, kept beside the tests, so that nothing gets slower unseen.

    python -m maxllm.plan.golden                  compiles every case and prints what differs
    python -m maxllm.plan.golden tiny-v5e-8 --write   writes what it finds; look at `git diff` before committing it

A layout rule that stops matching, a fused kernel that is no longer chosen, a loop unrolled, memory that grew: each
changes these numbers, and neither the loss nor any other test. The numbers belong to one version of JAX and libtpu.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxllm.config.errors import UserError
from maxllm.config.load import find, resolve
from maxllm.config.train import TrainConfig
from maxllm.plan import targets
from maxllm.plan.collectives import totals
from maxllm.plan.contents import read
from maxllm.plan.machines import machine
from maxllm.plan.programs import train_program
from maxllm.plan.types import Program

FOLDER = Path("tests/maxllm/plan/golden")  # beside the tests of a checkout; not part of an installation
TOLERANCE = {"gigabytes": 0.02, "teraflops": 0.02, "temporary_gigabytes": 0.05}  # relative; counts are exact


@dataclass(frozen=True)
class Case:
    on: str
    file: str
    overrides: tuple[str, ...] = ()
    seconds: int = 10  # that compiling takes on two quiet cores, about


_TINY = ("model.num_layers=2", "data.batch_size=8", "data.sequence_length=256", "compute.remat=full")
_8B = ("compute.dtype=bfloat16", "compute.remat=full", "data.sequence_length=8192")

CASES = {
    "tiny-v5e-8": Case("v5e-8", "train/demo", _TINY),
    "tiny-h100x8": Case("h100x8", "train/demo", _TINY),
    "tiny-tensor-v5e-8": Case(
        "v5e-8", "train/demo", (*_TINY, "model.num_heads=4", "model.num_kv_heads=4", "mesh.tensor=4")
    ),
    "llama3.1-8b-v5e-256": Case("v5e-256", "models/llama3.1-8b", (*_8B, "data.batch_size=256"), 100),
    "llama3.1-8b-h100x8": Case("h100x8", "models/llama3.1-8b", (*_8B, "data.batch_size=8"), 60),
    "mixtral-v5p-128": Case("v5p-128", "models/mixtral-8x7b", (*_8B, "data.batch_size=64", "mesh.expert=8"), 100),
    "64-gpu-h100x8x8": Case("h100x8x8", "mesh/64-gpu", (*_8B, "base=models/llama3.1-8b", "data.batch_size=256"), 100),
}


def compiled(case: Case) -> Program:
    """The case's training step. Raises UserError where its compiler or its preset is not there."""
    on = machine(case.on)
    targets.environment(on)
    find(case.file)
    overrides = ["data.sources.any.path=none", *(each for each in case.overrides if not each.startswith("base="))]
    bases = [each.removeprefix("base=") for each in case.overrides if each.startswith("base=")]
    for base in bases:  # a mesh has no model of its own
        shape = resolve(TrainConfig, base).config.model.model_dump(mode="json", exclude_defaults=True)
        overrides += [f"model.{name}={json.dumps(value)}" for name, value in shape.items()]
    return train_program(resolve(TrainConfig, case.file, overrides, device_kind=on.kind).config, on)


def counts(program: Program) -> dict[str, Any]:
    """What is kept of a program: plain values, small enough to read."""
    found = read(program)
    return {
        "machine": program.machine.name,
        "mesh": {axis: size for axis, size in program.mesh.items() if size > 1},
        "collectives": {
            f"{kind} along {axes}": {"runs": total.executions, "gigabytes": _digits(total.bytes / 1e9)}
            for (kind, axes), total in sorted(totals(list(found.collectives)).items())
            if total.bytes > 1e5  # a handful of scalars are combined differently from one compile to the next
        },
        "fused_attention": dict(sorted(found.fused_attention.items())),
        "loops": _loops(found.loops),
        "teraflops": {phase: _digits(flops / 1e12) for phase, flops in sorted(found.flops.by_phase.items())},
        "unknown_kernels": dict(sorted(found.flops.unknown.items())),
        "temporary_gigabytes": _digits(program.memory.temporaries / 1e9),
    }


def _digits(number: float) -> float:
    return float(f"{number:.4g}")


def _loops(loops: Sequence[Any]) -> dict[str, int]:
    """How many loops have each trip count."""
    return dict(sorted(collections.Counter(str(loop.trips or "unknown") for loop in loops).items()))


def differences(golden: Mapping[str, Any], found: Mapping[str, Any], path: str = "", within: float = 0.0) -> list[str]:
    """A sentence for each number that changed; numbers in TOLERANCE may move that far."""
    lines = []
    for key in [*golden, *(key for key in found if key not in golden)]:
        before, after = golden.get(key), found.get(key)
        at, allowed = f"{path}{key}", TOLERANCE.get(key, within)
        if isinstance(before, Mapping) or isinstance(after, Mapping):
            lines += differences(before or {}, after or {}, f"{at}: ", allowed)
        elif before is None or after is None:
            lines.append(f"{at}: {before if after is None else after} " + ("is gone" if after is None else "is new"))
        elif isinstance(before, str) or not allowed:
            lines += [f"{at}: {before} -> {after}"] if before != after else []
        elif abs(after - before) > allowed * abs(before):
            change = f" ({after / before - 1:+.1%}, {allowed:.0%} allowed)" if before else ""
            lines.append(f"{at}: {before} -> {after}{change}")
    return lines


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Raises UserError where the case has no golden file yet."""
    path = folder / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path}: no golden counts; python -m maxllm.plan.golden {name} --write")
    return json.loads(path.read_text(encoding="utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m maxllm.plan.golden", description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--write", action="store_true", help="keep what is found as golden")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.cases if name not in CASES]:
        parser.error(f"{unknown[0]}: no such case; they are {', '.join(CASES)}")
    failed = False
    for name in args.cases or CASES:
        try:
            found = counts(compiled(CASES[name]))
            changed = [] if args.write else differences(load(name), found)
        except UserError as error:
            print(f"{name}: NOT CHECKED: {error}")
            continue
        if args.write:
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        failed |= bool(changed)
        print(f"{name}: {'written' if args.write else 'differs' if changed else 'as golden'}")
        print("".join(f"  {line}\n" for line in changed), end="")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
