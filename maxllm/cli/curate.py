"""Turn pages, code and data sets into clean documents, on this machine or on a Beam cluster.

Every document read is kept, rejected with a reason, or a dead letter; report.html in the output folder shows which
and why. The same command again does nothing when the output is finished, and starts over what was killed.

examples:
  maxllm curate curate/python-docs output.path=runs/documents
  maxllm curate curate/web 'inputs=[{format: warc, paths: ["crawl/*.warc.gz"]}]' -- --direct_num_workers 8
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.curate import CurateConfig
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")


def run(args: argparse.Namespace) -> int:
    config = load(args, CurateConfig)
    log_progress()
    from data_beam.pipeline import curate

    report = curate(config, args.rest, force=args.force)
    if "template" in report:
        return 0
    say(
        f"{config.output.path}: {report['kept']:,} of {report['read']:,} documents kept, "
        f"{report['kept_bytes'] / 1e6:.1f} MB; see {config.output.path}/report.html"
    )
    return 0
