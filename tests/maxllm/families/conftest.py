"""Where the golden folders lie, and a little real text in tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maxllm.config import resolve
from maxllm.config.tokenize import TokenizeConfig


@pytest.fixture(scope="session")
def documentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language reference that comes with Python (what `help()` shows), in a vocabulary of 384, packed for 32."""
    from pydoc_data.topics import topics

    from data_beam.tokens import tokenize

    folder = tmp_path_factory.mktemp("documentation")
    with (folder / "documents.jsonl").open("w") as file:
        for number, (name, text) in enumerate(sorted(topics.items())):
            document = {"id": f"{number:032x}", "text": text, "source": "reference", "added": "2026-01-01T00:00:00Z"}
            file.write(json.dumps(document | {"metadata": {"group": name}}) + "\n")
    tree = {
        "documents": [str(folder / "documents.jsonl")],
        "output": str(folder / "tokens"),
        "tokenizer": {"vocab_size": 384},
        "sequence_lengths": [32],
        "shards": 1,
    }
    tokenize(resolve(TokenizeConfig, tree=tree).config)
    return folder / "tokens"
