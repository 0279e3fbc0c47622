"""What the measurements come to: tokens/s, FLOP/s, model FLOP utilisation, against the twin."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from rich.table import Table

from maxllm.bench.program import Taken
from maxllm.config.devices import peak_flops
from maxllm.config.train import TrainConfig
from maxllm.train.flops import flops_per_data_token


class Work(NamedTuple):
    """One repetition: tokens and model FLOPs (nothing counted twice for recomputing)."""

    tokens: int
    flops: float


def step_work(config: TrainConfig) -> Work:
    tokens = config.data.batch_size * config.data.sequence_length
    return Work(tokens, tokens * flops_per_data_token(config, config.data.sequence_length))


def attention_work(config: TrainConfig) -> Work:
    """Two products forward and five backward (scores again, and four gradients), half of each masked by causality."""
    rows = config.data.batch_size // config.train.accumulation_steps
    length = config.data.sequence_length
    product = 2.0 * rows * length * length * config.model.num_heads * config.model.head_size / 2
    return Work(rows * length, 7 * product)


def peak_of(device_kind: str, devices: int) -> float | None:
    """FLOP/s in bfloat16 of all devices; None where the data sheet says nothing, as of a CPU."""
    peak = peak_flops(device_kind)
    return peak and peak * devices


def rows(
    taken: dict[str, list[Taken]], abouts: dict[str, dict[str, Any]], work: Work, peak: float | None
) -> list[dict]:
    """One row a program; the last program is the twin that `ratio` compares with (its fastest over this fastest)."""
    names = list(taken)
    against = min(each["wall"] for each in taken[names[-1]]) if len(names) > 1 else None
    found = []
    for name in names:
        fastest = min(each["wall"] for each in taken[name])
        found.append(
            {
                "program": name,
                "tokens_per_second": work.tokens / fastest,
                "tflops": work.flops / fastest / 1e12,
                "mfu": work.flops / fastest / peak if peak else None,
                "seconds": fastest,
                "median_seconds": statistics.median(each["wall"] for each in taken[name]),
                "cpu_seconds": min(each["cpu"] for each in taken[name]),
                "memory_bytes": abouts[name].get("memory_bytes"),
                "compile_seconds": abouts[name]["compile"],
                "ratio": against and against / fastest,
                "versions": abouts[name]["versions"],
            }
        )
    return found


COLUMNS = {
    "program": ("program", "{}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "tflops": ("TFLOP/s", "{:.3g}"),
    "mfu": ("MFU", "{:.1%}"),
    "seconds": ("fastest, s", "{:.4g}"),
    "median_seconds": ("median, s", "{:.4g}"),
    "memory_bytes": ("memory, GB", "{:.2f}"),
    "compile_seconds": ("to first step, s", "{:.1f}"),
    "ratio": ("ratio", "{:.2f}"),
}


def cells(row: dict[str, Any]) -> list[str]:
    row = row | {"memory_bytes": row["memory_bytes"] and row["memory_bytes"] / 1e9}
    return [form.format(row[name]) if row[name] is not None else "–" for name, (_, form) in COLUMNS.items()]


def shown(found: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    for title, _ in COLUMNS.values():
        table.add_column(title)
    for row in found:
        table.add_row(*cells(row))
    return table


def markdown(found: list[dict[str, Any]]) -> str:
    titles = [title for title, _ in COLUMNS.values()]
    lines = [titles, ["---"] * len(titles), *map(cells, found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
