"""Make changed copies of documents: noise, synonyms, other orders and other forms, without a language model.

Every change is drawn from the seed, the document's id and the copy's number, so that the same command makes the same
copies on any number of workers, and is told in the copy's metadata.augmentation. Run it after curation: copies look
like near duplicates. Source code passes unchanged.

examples:
  maxllm augment augment/noise "documents=[runs/documents/documents/*]" copies=2
  maxllm augment augment/variants "documents=[runs/documents/documents/*]" output.path=runs/variants
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.augment import AugmentConfig
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")


def run(args: argparse.Namespace) -> int:
    config = load(args, AugmentConfig)
    log_progress()
    from data_beam.augment.run import augment

    report = augment(config, args.rest, force=args.force)
    if "template" in report:
        return 0
    counts = f"{report['copies']:,} copies of {report['read']:,} documents, {report['kept']:,} originals"
    say(f"{config.output.path}: {counts}")
    return 0
