"""What a run needs and costs on machines that are not here: memory, traffic, step time, days, dollars.

Compiles the real training step (or, of a `serve` config, the engine's programs) ahead of time for the machine and reads
what the compiler made of it. Machines: v5e-256, v5p-128 (TensorCores, two to a chip), v6e-256, tpu7x-128, v4-64,
v5e-256x2 (two slices), h100x8, h200x8x4 (four hosts of eight), a100x8, cpux8. TPU programs need the extra `plan`
(libtpu), GPU programs `plan-gpu`; neither needs the machine. Exit codes: 0 fits, 3 does not fit, 2 the user's to mend.

examples:
  maxllm plan pretrain/7b-chinchilla --on v5e-256 --tokens 140B
  maxllm plan pretrain/7b-chinchilla --on h100x8 compute.remat=attention --json plan.json
  maxllm plan pretrain/7b-chinchilla --on v5p-128 --search
  maxllm plan serve/default --model models/llama3.1-8b --on v5e-4 engine.slots=16
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.errors import UserError
from maxllm.config.kinds import root_of
from maxllm.config.load import resolve
from maxllm.config.serve import ServeConfig
from maxllm.config.train import TrainConfig

DOES_NOT_FIT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--on", metavar="MACHINE", required=True, help="such as v5e-256 or h100x8")
    parser.add_argument(
        "--tokens", metavar="N", type=_count, help="of the whole run, such as 140B; the config's if not"
    )
    parser.add_argument("--prices", metavar="FILE", default="prices/accelerators", help="dollars, in a YAML of yours")
    parser.add_argument("--mfu", metavar="SHARE", type=float, help="a measured one, instead of a share of the roofline")
    parser.add_argument("--search", action="store_true", help="try meshes, remat and micro-batches; the best that fits")
    parser.add_argument("--candidates", metavar="N", type=int, default=6, help="how many of them to compile (6)")
    parser.add_argument("--model", metavar="PRESET", help="of a serve config: whose shape to serve")
    parser.add_argument("--json", metavar="FILE", help="the same as plain values")


def run(args: argparse.Namespace) -> int:
    from maxllm.plan import targets
    from maxllm.plan.cost import load_prices
    from maxllm.plan.machines import machine

    prices = load_prices(args.prices)
    on = machine(args.on, prices.per_hour)
    serving = root_of(args.config) is ServeConfig
    config = load(args, ServeConfig if serving else TrainConfig, device_kind=None if serving else on.kind)
    targets.environment(on)  # before anything imports jax

    from rich.console import Console

    if serving:
        from maxllm.plan.serving import as_json, plan_serving, show

        if not args.model:
            raise UserError("--model: a serve config says how, not what; name a preset with a model's shape")
        shape = resolve(TrainConfig, args.model).config.model
        plan = plan_serving(shape, config.engine, on, say=_progress)
    elif args.search:
        from maxllm.plan.search import as_json, search, show

        plan = search(config, on, candidates=args.candidates, utilisation=prices.utilisation, say=_progress)
    else:
        from maxllm.plan.report import as_json, plan_training, show

        plan = plan_training(
            config, on, tokens=args.tokens, utilisation=prices.utilisation, mfu=args.mfu, say=_progress
        )
    show(plan, Console(highlight=False))
    if args.json:
        Path(args.json).write_text(json.dumps(as_json(plan), indent=1, default=str) + "\n")
    return 0 if plan.fits else DOES_NOT_FIT


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _count(text: str) -> float:
    """140B, 2T, 5e9: a number of tokens."""
    found = re.fullmatch(r"([\d.]+(?:e\d+)?)([KMBT]?)", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens, such as 140B")
    return float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found[2].upper()]
