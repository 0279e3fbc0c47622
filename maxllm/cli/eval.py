"""Measure a model: held-out bits per byte beside gzip, and lm-eval's tasks on local files.

CONFIG may be the model itself: a run directory, one of its checkpoints, or a Hugging Face folder. Without tasks, the
held-out documents of the run's own data are scored. What the numbers mean: docs/evaluation.md.

examples:
  maxllm eval runs/demo/train
  maxllm eval runs/demo/train --tasks gsm8k,maxllm_arc_easy --data gsm8k=data/gsm8k maxllm_arc_easy=arc.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.errors import UserError
from maxllm.config.evaluate import EvalConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--tasks", metavar="TASK,...", action="append", default=[], help="lm-eval's or ours, maxllm_..."
    )
    parser.add_argument(
        "--data",
        metavar="TASK=PATH",
        nargs="+",
        action="extend",
        default=[],
        help="a task's items: a JSON lines file, or a folder of them named after splits (test.jsonl.gz, ...)",
    )
    parser.add_argument("--limit", type=int, help="items per task")


def run(args: argparse.Namespace) -> int:
    config = load(_with_model_and_options(args), EvalConfig)
    from rich.console import Console

    from maxllm import summary
    from maxllm.eval import tables
    from maxllm.eval.report import evaluate

    results = evaluate(config)
    console = Console()
    for table in tables.rich_tables(results):
        console.print(table)
    summary.say(tables.summary_line(results))
    return 0


def _with_model_and_options(args: argparse.Namespace) -> argparse.Namespace:
    """The shorthands as the key=value they stand for. What is written out as key=value comes after, and wins."""
    short = []
    if Path(args.config).is_dir():
        short.append(f"model={json.dumps(args.config)}")
        args.config = None
    pairs = [pair.partition("=") for pair in args.data]
    for name, equals, path in pairs:
        if not (name and path):
            raise UserError(f"--data {name}{equals}{path} is not TASK=PATH")
    if args.tasks:
        short.append(f"tasks={json.dumps(','.join(args.tasks).split(','))}")
    if pairs:
        short.append(f"data_files={json.dumps({name: path for name, _, path in pairs})}")
    if args.limit is not None:
        short.append(f"limit={args.limit}")
    args.overrides = short + args.overrides
    return args
