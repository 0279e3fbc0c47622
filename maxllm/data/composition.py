"""What a run is fed, as metadata that stays with its checkpoints: sources, their ages, shares, phases, progress."""

from __future__ import annotations

from typing import Any

from maxllm.config.train import DataConfig
from maxllm.data.dataset import Dataset, is_dataset
from maxllm.data.loader import Loader
from maxllm.data.phases import Phase


def describe(config: DataConfig, loader: Loader) -> dict[str, Any]:
    """JSON: what each source of the training split holds, and the mixture in each phase.

    `contents` has the documents, tokens and bytes of each document source in it, and its `years` (share of the tokens
    by year) where the data set knows them.
    """
    return {
        "sources": {name: _source(config, name) for name in loader.names},
        "phases": [_phase(phase, loader.names) for phase in loader.phases],
    }


def progress(config: DataConfig, loader: Loader, step: int) -> dict[str, Any]:
    """JSON: how far steps 0 to `step` - 1 went. `tokens` counts padding; `epochs`: passes through each source."""
    tokens = step * config.batch_size * config.sequence_length
    return {"step": step, "tokens": tokens, "epochs": loader.epochs_before(step)}


def _source(config: DataConfig, name: str) -> dict[str, Any]:
    source = config.sources[name]
    if not is_dataset(source.path):  # JSON lines with labels: nobody counted them
        return {"path": source.path, "contents": {}}
    dataset = Dataset(source.path)
    counts = dataset.description["counts"]["train"]
    years = dataset.description.get("years", {})  # by source; absent from data sets that nobody dated
    names = dataset.sources("train") if source.source is None else [source.source]
    contents = {each: dict(counts[each]) | ({"years": years[each]} if each in years else {}) for each in names}
    return {"path": source.path, "contents": contents}


def _phase(phase: Phase, names: list[str]) -> dict[str, Any]:
    total = sum(phase.weights)
    shares = {name: round(weight / total, 6) for name, weight in zip(names, phase.weights, strict=True)}
    return {
        "first_step": phase.first,
        "sequence_length": phase.sequence_length,
        "batch_size": phase.batch_size,
        "shares": shares,
    }
