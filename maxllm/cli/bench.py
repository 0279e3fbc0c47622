"""Measure this machine: a training step, its attention alone, or a whole training run.

Prints tokens/s, model TFLOP/s, MFU (of the data sheet's bfloat16 peak), memory and the time to the first step. Where
PyTorch and transformers are installed (here, or in the Python that --torch-python names), their step of the same shape
takes turns with ours, and `ratio` is the faster of PyTorch's two over ours: above 1, ours is faster.

examples:
  maxllm bench step bench/100m --torch-python ../torch/bin/python
  maxllm bench attention bench/llama-1b compute.attention=blockwise
  maxllm bench train train/demo data.sources.python.path=runs/demo/tokens train.steps=100
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.train import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["step", "attention", "train"])
    add_config_arguments(parser)
    parser.add_argument("--repeats", type=int, default=10, help="rounds, one repetition of every program each")
    parser.add_argument("--torch-python", metavar="PYTHON", help="a Python with torch and transformers")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")


def run(args: argparse.Namespace) -> int:
    load(args, TrainConfig)
    from rich.console import Console

    from maxllm.bench import measure, table

    config = load(args, TrainConfig, device_kind=_device_kind())
    console = Console()

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    if args.what == "train":
        found = measure.measure_run(config, say=say)
    else:
        torch_python = args.torch_python or (sys.executable if _has_torch() else None)
        if torch_python is None:
            say("no PyTorch here: ours alone (--torch-python names a Python that has it)")
        found = measure.measure(args.what, config, repeats=args.repeats, torch_python=torch_python, say=say)
    console.print(table.shown(found, f"{args.what} of {args.config}"))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _has_torch() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def _device_kind() -> str:
    """In a process of its own: this one must not hold the accelerator that the measured programs need."""
    import subprocess

    command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
