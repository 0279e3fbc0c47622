"""Train an n-gram language model on documents: modified Kneser-Ney, as an ARPA file that KenLM reads.

Writes model.arpa and ngram.json, which says how text became words. `maxllm curate` measures perplexity by it
(perplexity.models). The same command again does nothing when the output is finished, and goes on when it was stopped.

examples:
  maxllm ngram ngram/default "documents=[runs/documents/documents/*]" output=runs/ngram
  maxllm ngram ngram/ccnet "documents=[wiki/*.jsonl.zst]" preparation.tokenizer=en.sp.model -- --direct_num_workers 8
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load, log_progress
from maxllm.config.perplexity import NgramConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="do it again, replacing whatever the output folder holds")


def run(args: argparse.Namespace) -> int:
    config = load(args, NgramConfig)

    log_progress()
    from data_beam.ngram.training import train
    from maxllm.summary import say

    model = train(config, args.rest, force=args.force)
    if "template" in model:
        return 0
    counts = ", ".join(f"{count:,}" for count in model["ngrams"])
    say(f"{config.output}: order {model['order']}, {counts} n-grams from {model['words']:,} words")
    return 0
