"""Find which evaluation items occur in a training set, and write the clean and the dirty ones apart.

For each benchmark: how many items are in some document, in which and where. The files below OUT/clean can be scored
by themselves: maxllm eval ... data_files.TASK=OUT/clean/TASK.jsonl

examples:
  maxllm contamination --documents 'runs/documents/documents/*' --items 'eval/*.jsonl.gz' output=runs/contamination
  maxllm contamination items.tasks='[gsm8k]' items.data_files.gsm8k=gsm8k/test.jsonl.gz --documents 'gs://b/web/documents/*'
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.decontaminate import ContaminationConfig, ItemsConfig
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, required=False)
    parser.add_argument("--documents", metavar="GLOB", nargs="+", help="curated files; over the config's documents")
    parser.add_argument("--items", metavar="FILE", nargs="+", help="JSON lines of items; over the config's items.paths")


def run(args: argparse.Namespace) -> int:
    if args.config and "=" in args.config:  # no file: the first positional is a setting already
        args.overrides, args.config = [args.config, *args.overrides], None
    config = load(args, ContaminationConfig)
    if args.documents:
        config = config.model_copy(update={"documents": args.documents})
    if args.items:
        config = config.model_copy(update={"items": config.items.model_copy(update={"paths": args.items})})
    log_progress()
    from data_beam.decontaminate.reverse import contamination

    config = config.model_copy(update={"items": resolve_tasks(config.items, config.output)})
    report = contamination(config, args.rest)
    dirty = sum(row["dirty"] for row in report["benchmarks"].values())
    items = sum(row["items"] for row in report["benchmarks"].values())
    say(
        f"{config.output}: {dirty:,} of {items:,} items are in the {report['documents']:,} documents; "
        f"see {config.output}/contamination.json"
    )
    return 0


def resolve_tasks(items: ItemsConfig, folder: str) -> ItemsConfig:
    """lm-eval's tasks become item files below `folder`, here, so that workers need no lm-eval."""
    if not items.tasks:
        return items
    from data_beam.decontaminate.tasks import with_tasks
    from maxllm.eval.task_items import task_records

    return with_tasks(items, folder, task_records)
