"""Serve a model: JetStream's gRPC and OpenAI's HTTP, until SIGTERM.

MODEL is a run directory or a Hugging Face folder; or a config (a YAML file or preset) that names one. Both ports
listen on 127.0.0.1 unless ports.host says otherwise; port 0 takes a free one. docs/serving.md has clients.

examples:
  maxllm serve runs/demo/train ports.http=8080 engine.slots=16
  maxllm serve runs/demo/export --check "import os"
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from maxllm.cli.common import add_config_arguments, load
from maxllm.config.errors import UserError
from maxllm.config.serve import ServeConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        "--check", metavar="PROMPT", help="on free ports, ask for one completion over gRPC and one over HTTP, and stop"
    )


def run(args: argparse.Namespace) -> int:
    if "://" in args.config or Path(args.config).is_dir():
        args.overrides = [f"model={args.config}", *args.overrides]
        args.config = None
    if args.check is not None:
        args.overrides = [*args.overrides, "ports.grpc=0", "ports.http=0"]
    config = load(args, ServeConfig)
    try:
        from serving.server.main import serve
    except ImportError as error:
        raise UserError(f"serving needs the extra `serve` ({error}); install maxllm[serve]") from None
    if args.check is None:
        return serve(config)
    from serving.server.check import check

    return serve(config, partial(check, prompt=args.check))
