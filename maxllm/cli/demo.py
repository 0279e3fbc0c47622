"""The whole road on this machine: documents in, a served model out, in a few minutes.

The recipe is configs/recipes/demo.yml: curate the documentation and source of this Python installation, train a
tokenizer and a model of a few million parameters, evaluate, export, serve. Ctrl-C at any moment; run again to go on.

examples:
  maxllm demo
  maxllm demo run_dir=runs/longer stages.2.config.train.steps=2000
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from maxllm.cli import run as run_verb
from maxllm.config.load import resolve
from maxllm.config.recipe import RecipeConfig

RECIPE = "recipes/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings over the recipe's")


def run(args: argparse.Namespace) -> int:
    args.config, args.gin_file, args.gin_param = RECIPE, [], []
    began = time.monotonic()
    code = run_verb.run(args)
    if code == 0:
        _summary(resolve(RecipeConfig, RECIPE, args.overrides).config, time.monotonic() - began)
    return code


def _summary(recipe: RecipeConfig, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    run_dir = Path(recipe.run_dir)
    table = Table(title=f"{run_dir}: {seconds:.0f} s", show_lines=True)
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("what it did", overflow="fold")
    for stage in recipe.stages:
        manifest = json.loads((run_dir / "stages" / f"{stage.label}.json").read_text())
        table.add_row(stage.label, f"{manifest['seconds']:.0f}", manifest["summary"])
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"What was kept and what was dropped, to look at: {run_dir / 'documents' / 'report.html'}", soft_wrap=True
    )
    console.print(
        f'Talk to it:  maxllm generate {run_dir / "train"} "import os"   or   maxllm serve {run_dir / "export"}'
    )
