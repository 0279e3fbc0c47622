"""Tiny tokens made by `maxllm tokenize` itself, and a model that trains on them in milliseconds a step."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxllm.config import resolve
from maxllm.config.tokenize import TokenizeConfig
from maxllm.config.train import TrainConfig

WORDS = "the cat sat on a mat while def return import self for in range if else print hello world tokens".split()


def _tokenized(folder: Path, words: dict[str, list[str]], documents: int) -> Path:
    """A token data set: `documents` of a few hundred tokens, a fifth of them held out, packed for 32."""
    from data_beam.tokens import tokenize

    chosen = random.Random(0)
    with (folder / "documents.jsonl").open("w") as file:
        for index in range(documents):
            source = list(words)[index % len(words)]
            document = {
                "id": f"{index:032x}",
                "text": " ".join(chosen.choices(words[source], k=chosen.randint(20, 200))),
                "source": source,
                "added": "2026-01-01T00:00:00Z",
                "metadata": {"group": f"group-{index}"},
            }
            file.write(json.dumps(document) + "\n")
    tree = {
        "documents": [str(folder / "documents.jsonl")],
        "output": str(folder / "tokens"),
        "tokenizer": {"vocab_size": 400},
        "held_out": {"fraction": 0.2},
        "sequence_lengths": [32],
        "shards": 2,
    }
    tokenize(resolve(TokenizeConfig, tree=tree).config)
    return folder / "tokens"


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tokenized(tmp_path_factory.mktemp("tokens"), {"words": WORDS}, 150)


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """`data.sources` of three domains: one nearly constant, one of the words above, one of many words."""
    many = [f"{first}{second}" for first in WORDS for second in WORDS[:6]]
    words = {"easy": WORDS[:2], "middle": WORDS, "hard": many}
    path = _tokenized(tmp_path_factory.mktemp("domains"), words, 180)
    return {name: {"path": str(path), "source": name} for name in words}


@pytest.fixture(scope="session")
def base_settings(tokens: Path) -> dict[str, Any]:
    """The tree of a config, but for its run directory."""
    return {
        "kind": "train",
        "model": {
            "vocab_size": 448,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "max_positions": 64,
        },
        "data": {"sources": {"words": {"path": str(tokens)}}, "sequence_length": 32, "batch_size": 8},
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"warmup_steps": 5},
        "compute": {"dtype": "float32"},
        "train": {"steps": 30, "log_every": 4, "checkpoint_every": 10, "eval_batches": 2},
    }


@pytest.fixture
def configured(base_settings: dict[str, Any], tmp_path: Path) -> Callable[..., TrainConfig]:
    """A config that trains in a new run directory, with sections changed: `configured(train={"steps": 40})`."""
    train = {**base_settings["train"], "run_dir": str(tmp_path / "run")}
    settings = {**base_settings, "train": train}

    def config_of(**changes: dict[str, Any]) -> TrainConfig:
        tree = {**settings, **{name: {**settings.get(name, {}), **change} for name, change in changes.items()}}
        return resolve(TrainConfig, tree=tree).config

    return config_of
