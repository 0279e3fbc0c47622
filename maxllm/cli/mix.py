"""Weigh tokenized sources by their sizes (UniMax, alpha sampling) and write the mixture as a file.

The file is a `base:` of a train config. Sources are the document sources of the token folders: curate with
`output.source={source}/{language}` to weigh languages, or `{source}/{perplexity_bucket}` for difficulties.

examples:
  maxllm mix sampling/multilingual-unimax 'tokens={web: runs/tokens}' budget_tokens=2000000000
  maxllm mix sampling/code-alpha 'tokens={code: runs/code}' output=runs/mixture.yml
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.mix import MixConfig
from maxllm.summary import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    config = load(args, MixConfig)
    from rich.console import Console
    from rich.table import Table

    from data_beam.select.mixture import mix

    rows = mix(config)
    table = Table("source", "tokens", "of all", "share", "epochs", box=None)
    total = sum(row["tokens"] for row in rows)
    for row in sorted(rows, key=lambda row: -row["share"]):
        epochs = "" if row["epochs"] is None else f"{row['epochs']:.3g}"
        table.add_row(row["name"], f"{row['tokens']:,}", f"{row['tokens'] / total:.2%}", f"{row['share']:.2%}", epochs)
    Console(highlight=False).print(table)
    say(f"{config.output}: {len(rows)} sources by {config.method}")
    return 0
