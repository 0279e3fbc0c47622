"""`mix(config)`: shares of tokenized sources by a rule, written as a mixture file."""

from __future__ import annotations

from typing import Any

import yaml
from apache_beam.io.filesystems import FileSystems

from data_beam.output import make_folder, read_json, write_bytes
from data_beam.select.weights import alpha_sampling, proportional, uniform, unimax
from data_beam.token_format import DATASET
from maxllm.config.errors import UserError
from maxllm.config.mix import MixConfig

TRAIN = "train"


def mix(config: MixConfig) -> list[dict[str, Any]]:
    """A row for each source: name, tokens, share and, with a budget, epochs. Writes the mixture. Raises UserError."""
    if not config.tokens:
        raise UserError("tokens is empty; name folders that `maxllm tokenize` wrote, e.g. tokens={web: runs/tokens}")
    sources = _sources(config)
    shares = _shares({name: float(row["tokens"]) for name, row in sources.items()}, config)
    rows = []
    for name, row in sources.items():
        epochs = shares[name] * config.budget_tokens / row["tokens"] if config.budget_tokens else None
        rows.append({"name": name, **row, "share": shares[name], "epochs": epochs})
    _write(rows, config)
    return rows


def _sources(config: MixConfig) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, path in config.tokens.items():
        dataset = read_json(FileSystems.join(path, DATASET))
        if dataset is None:
            raise UserError(
                f"tokens.{name}: there is no {DATASET} in {path}; give a folder that `maxllm tokenize` wrote"
            )
        counts = dataset["counts"].get(TRAIN, {})
        for source, count in counts.items():
            # The mixture's names are keys of a config, where a dot would part them.
            full = name if len(counts) == 1 else f"{name}/{source}".replace(".", "_")
            if count["tokens"]:
                found[full] = {"path": path, "source": source, "tokens": count["tokens"]}
    if not found:
        raise UserError(f"tokens: {', '.join(config.tokens.values())} hold no tokens to train on")
    return found


def _shares(sizes: dict[str, float], config: MixConfig) -> dict[str, float]:
    if config.method == "unimax":
        assert config.budget_tokens is not None
        return unimax(sizes, config.budget_tokens, config.max_epochs)
    if config.method == "alpha":
        return alpha_sampling(sizes, 1 / config.alpha if config.alpha_is == "temperature" else config.alpha)
    return {"proportional": proportional, "uniform": uniform}[config.method](sizes)


def _write(rows: list[dict[str, Any]], config: MixConfig) -> None:
    sources = {
        row["name"]: {"path": row["path"], "source": row["source"], "weight": round(row["share"], 8)}
        for row in rows
        if row["share"] > 0
    }
    settings = config.model_dump(mode="json", exclude={"kind", "tokens", "output"}, exclude_none=True)
    head = "".join(f"# {name}: {value}\n" for name, value in settings.items())
    body = yaml.safe_dump({"kind": "train", "data": {"sources": sources}}, sort_keys=False)
    folder = config.output.rpartition("/")[0]
    if folder:
        make_folder(folder)
    write_bytes(config.output, (f"# Written by `maxllm mix`: a `base:` of a train config.\n{head}{body}").encode())
