"""Turn pages, code and data sets into clean documents, on this machine or on a Beam cluster.

Every document read is kept, rejected with a reason, or a dead letter; report.html in the output folder shows which
and why. The same command again does nothing when the output is finished, and starts over what was killed.

examples:
  maxllm curate curate/python-docs output.path=runs/documents
  maxllm curate curate/python-docs --estimate --sample 500
  maxllm curate curate/web 'inputs=[{format: warc, paths: ["crawl/*.warc.gz"]}]' -- --direct_num_workers 8
"""

from __future__ import annotations

import argparse
import re

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.cli.contamination import resolve_tasks
from maxllm.config.curate import CurateConfig
from maxllm.config.errors import UserError
from maxllm.config.load import resolve
from maxllm.config.prices import PricesConfig
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")
    parser.add_argument(
        "--estimate", action="store_true", help="only say, from a sample, what a run would keep, take and cost"
    )
    parser.add_argument("--sample", type=int, default=2000, metavar="N", help="documents the estimate looks at")
    parser.add_argument("--at", metavar="SIZE", help="estimate for inputs of this size, such as 10TB, like the sampled")
    parser.add_argument(
        "--prices", default="prices/dataflow", metavar="FILE", help="of the estimate, in a YAML of yours"
    )


def run(args: argparse.Namespace) -> int:
    config = load(args, CurateConfig)
    log_progress()
    items = resolve_tasks(config.decontamination, config.output.path)
    config = config.model_copy(update={"decontamination": items})
    if args.estimate:
        return _estimate(config, args)
    from data_beam.pipeline import curate

    report = curate(config, args.rest, force=args.force)
    if "template" in report:
        return 0
    say(
        f"{config.output.path}: {report['kept']:,} of {report['read']:,} documents kept, "
        f"{report['kept_bytes'] / 1e6:.1f} MB; see {config.output.path}/report.html"
    )
    return 0


def _estimate(config: CurateConfig, args: argparse.Namespace) -> int:
    from data_beam.estimate import estimate, lines

    prices = resolve(PricesConfig, args.prices).config
    result = estimate(config, prices, documents=args.sample, total_bytes=_bytes(args.at))
    for line in lines(result):
        print(line)
    return 0


def _bytes(size: str | None) -> float | None:
    """`10TB`, `1.5GB`, `800MB`: powers of 1,000."""
    if size is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)B?", size.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"--at {size}: give a size such as 10TB or 800GB")
    return float(found[1]) * 1000.0 ** " KMGTP".index(found[2].upper() or " ")
