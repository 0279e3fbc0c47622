"""Small synthetic labelled texts that a classifier can learn in a blink, and one model trained on them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_beam.classify.training import train
from maxllm.config.classify import ClassifierTrainConfig

SPECIAL = {
    "good": ["theorem", "because", "evidence", "chapter", "measured", "therefore"],
    "bad": ["click", "cheap", "deal", "casino", "winner", "hurry"],
    "middle": ["blog", "today", "photo", "trip", "friend", "nice"],
}
COMMON = ["the", "a", "of", "and", "to", "in", "this", "one", "we", "it"]


def make_records(count: int, labels: tuple[str, ...] = ("good", "bad"), share: float = 0.3) -> list[dict[str, Any]]:
    random_ = random.Random(len(labels))
    records = []
    for index in range(count):
        label = labels[index % len(labels)]
        words = [random_.choice(SPECIAL[label] if random_.random() < share else COMMON) for _ in range(25)]
        records.append({"text": " ".join(words) + f" n{index}", "label": label, "grade": 2 * (index % len(labels))})
    return records


@pytest.fixture(scope="session")
def labelled() -> Callable[..., list[dict[str, Any]]]:
    return make_records


@pytest.fixture(scope="session")
def two_heads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model with a head of three classes and a regression, and its report."""
    folder = tmp_path_factory.mktemp("model")
    records = make_records(900, ("bad", "middle", "good"), share=0.15)
    (folder / "rated.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    data = {"paths": [str(folder / "rated.jsonl")]}
    config = ClassifierTrainConfig.model_validate(
        {
            "output": str(folder / "model"),
            "heads": {
                "quality": {"data": [data], "labels": ["bad", "middle", "good"], "positive": "good"},
                "grade": {"data": [data | {"label_key": "grade"}], "bins": [1, 3], "positive_from": 3},
            },
            "fasttext": {"dim": 8, "buckets": 1000, "epochs": 12},
        }
    )
    return folder / "model", train(config)
