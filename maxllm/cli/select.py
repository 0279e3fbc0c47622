"""Choose the documents to train on among curated ones: like a target (DSIR), by attributes, by age.

Documents of the right dates are ranked by importance for the target, and the best share of each source is kept;
then each is drawn as many times as its attributes and its year say. Everything is seeded by document, so that the
same command chooses the same documents on any number of workers.

examples:
  maxllm select select/dsir 'documents=["runs/web/documents/*"]' 'dsir.target=["books/*.jsonl.gz"]'
  maxllm select select/dsir 'documents=["runs/web/documents/*"]' age.since=2019 output.path=runs/recent
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.select import SelectConfig
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")


def run(args: argparse.Namespace) -> int:
    config = load(args, SelectConfig)
    log_progress()
    from data_beam.select.run import select

    report = select(config, args.rest, force=args.force)
    if "template" in report:
        return 0
    copies = f" and {report['copies']:,} further copies" if report["copies"] else ""
    say(
        f"{config.output.path}: {report['kept']:,} of {report['read']:,} documents selected{copies}; "
        f"see {config.output.path}/report.html"
    )
    return 0
