"""Train a model on tokens, or go on with a run that was stopped.

Running the same command again goes on from the newest checkpoint, bit for bit. SIGTERM and Ctrl-C save first (exit
codes 143 and 130). Several machines: docs/training.md.

examples:
  maxllm train train/demo data.sources.python.path=runs/demo/tokens
  maxllm train train/pretrain-7b-chinchilla train.run_dir=/shared/7b mesh.fsdp=64
"""

from __future__ import annotations

import argparse

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.train import TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    # A mistake in the config is told before JAX is imported and the machines meet; which mesh rule applies is known
    # only after.
    load(args, TrainConfig)
    import jax

    from maxllm.parallel import distributed
    from maxllm.train.loop import train

    distributed.initialize()
    train(load(args, TrainConfig, device_kind=jax.devices()[0].device_kind))
    return 0
