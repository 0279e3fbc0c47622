"""What the verbs share: how a config is named on the command line."""

from __future__ import annotations

import argparse
import logging
from typing import TypeVar

from pydantic import BaseModel

from maxllm.config.load import Resolved, resolve

Config = TypeVar("Config", bound=BaseModel)


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """FILE [key=value ...] [--gin-file F] [--gin-param B]: the same for every verb that has a config."""
    parser.add_argument(
        "config", metavar="CONFIG", nargs=None if required else "?", help="a YAML file, or a preset such as train/demo"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings over the file's")
    parser.add_argument("--gin-file", metavar="FILE", action="append", default=[], help="settings in gin's syntax")
    parser.add_argument("--gin-param", metavar="BINDING", action="append", default=[], help="e.g. 'optimizer.b1 = 0.9'")


def resolve_arguments(args: argparse.Namespace, root: type[Config], device_kind: str | None = None) -> Resolved[Config]:
    return resolve(
        root,
        args.config,
        args.overrides,
        gin_files=args.gin_file,
        gin_params=args.gin_param,
        device_kind=device_kind,
    )


def load(args: argparse.Namespace, root: type[Config], device_kind: str | None = None) -> Config:
    """The frozen config that the arguments of `add_config_arguments` describe. Raises UserError."""
    return resolve_arguments(args, root, device_kind).config


def log_progress() -> None:
    """Our lines plainly on stderr; of Beam's only what is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    progress = logging.getLogger("maxllm.progress")
    progress.addHandler(handler)
    progress.setLevel(logging.INFO)
    progress.propagate = False
    logging.getLogger().setLevel(logging.ERROR)
