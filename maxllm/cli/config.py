"""Print a config as it resolves, with who set each value.

The kind of the config (train, curate, ...) is the file's own `kind:`.

examples:
  maxllm config train/demo optimizer.learning_rate=1e-3
  maxllm config train/pretrain-7b --device-kind "TPU v5p" --gin-param "mesh.tensor = 4"
"""

from __future__ import annotations

import argparse
import sys

from maxllm.cli.common import add_config_arguments, resolve_arguments
from maxllm.config.kinds import root_of
from maxllm.config.load import to_yaml


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--device-kind", help="apply the mesh rule for these devices, e.g. 'NVIDIA H100 80GB HBM3'")


def run(args: argparse.Namespace) -> int:
    resolved = resolve_arguments(args, root_of(args.config), args.device_kind)
    sys.stdout.write(to_yaml(resolved.config, resolved.origins))
    return 0
