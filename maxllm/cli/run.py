"""Run a recipe: stages in order, those already done skipped.

A recipe is a YAML file of verbs and their settings; copy configs/recipes/demo.yml and change it.

examples:
  maxllm run recipes/demo run_dir=runs/mine
  maxllm run mine.yml stages.2.config.train.steps=500
"""

from __future__ import annotations

import argparse
import sys

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.recipe import RecipeConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from maxllm import recipes

    try:
        recipes.run(load(args, RecipeConfig))
    except recipes.StageFailed as error:
        print(f"maxllm {args.verb}: {error}", file=sys.stderr)
        return 1
    return 0
