"""Finished runs as points of a scaling law: from tables of losses, or from maxllm's run directories."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from maxllm.config.errors import UserError
from maxllm.plan.scaling import Point

_COLUMNS = ("parameters", "tokens", "loss")


def read_points(paths: Sequence[str]) -> list[Point]:
    """From each of `paths`: a run directory, a CSV file with a header, or a file of JSON lines, with the columns
    parameters, tokens and loss. Raises UserError."""
    points: list[Point] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            points.append(_run(path))
        elif path.is_file():
            points += _table(path)
        else:
            raise UserError(f"{name}: no such file or run directory")
    return points


def _table(path: Path) -> list[Point]:
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("{"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
        return [Point(*(float(row[column]) for column in _COLUMNS)) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: needs the columns {', '.join(_COLUMNS)}, all numbers ({error!r})") from error


def _run(folder: Path) -> Point:
    """The held-out loss at the run's end, else the mean training loss of its last tenth.

    N is the parameters that multiply (train/flops.py): all but an untied embedding table.
    """
    from maxllm.config.model import ModelConfig
    from maxllm.train.flops import flops_per_token
    from maxllm.train.metrics import METRICS, read

    if not (folder / "config.yml").is_file() or not (folder / METRICS).is_file():
        raise UserError(f"{folder}: not a run directory; it has no config.yml and {METRICS}")
    tree = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
    records = read(folder / METRICS)
    if not records:
        raise UserError(f"{folder}: {METRICS} is empty")
    last = records[-1]
    losses = [record["loss"] for record in records if record["step"] > 0.9 * last["step"]]
    loss = last.get("held_out_loss") or sum(losses) / len(losses)
    tokens = last["step"] * tree["data"]["batch_size"] * tree["data"]["sequence_length"]
    return Point(flops_per_token(ModelConfig(**tree["model"]), 0) / 6, tokens, loss)
