"""Turn documents into token shards, with a tokenizer trained on them or one brought along.

Writes ArrayRecord shards, the tokenizer and dataset.json, and plans which documents share a training sequence. The
same command again does nothing when the output is finished; with another sequence length it adds that packing only.

examples:
  maxllm tokenize tokenize/default "documents=[runs/documents/documents/*]" output=runs/tokens
  maxllm tokenize tokenize/default tokenizer.path=llama/tokenizer.json output=runs/llama -- --direct_num_workers 8
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.tokenize import TokenizeConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")


def run(args: argparse.Namespace) -> int:
    config = load(args, TokenizeConfig)

    log_progress()
    from data_beam.tokens import tokenize
    from maxllm.summary import say

    dataset = tokenize(config, args.rest, force=args.force)
    if "template" in dataset:
        return 0
    totals = {
        name: sum(count[name] for sources in dataset["counts"].values() for count in sources.values())
        for name in ("documents", "tokens", "bytes")
    }
    say(
        f"{config.output}: {totals['documents']:,} documents, {totals['tokens']:,} tokens of a vocabulary of "
        f"{dataset['tokenizer']['vocab_size']:,}, {totals['bytes'] / max(totals['tokens'], 1):.2f} bytes a token"
    )
    return 0
