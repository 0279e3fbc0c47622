from __future__ import annotations

import inspect
import json
import random
from pathlib import Path

import pytest

MODULES = (
    "argparse",
    "base64",
    "calendar",
    "cmd",
    "csv",
    "dis",
    "enum",
    "fractions",
    "glob",
    "heapq",
    "json",
    "locale",
)


def write_documents(path: Path, seed: int = 0) -> list[dict]:
    """Real source and its docstrings, pieces of a few lines, one document longer than a record and an empty one."""
    draw = random.Random(seed)
    documents = []

    def add(source: str, group: str, text: str) -> None:
        number = len(documents)
        record = {"id": f"{number:032x}", "text": text, "source": source, "added": "2026-01-01T00:00:00Z"}
        documents.append({**record, "created": None, "metadata": {"group": group}})

    for name in MODULES:
        module = __import__(name)
        add("code", name, inspect.getsource(module))
        add("docs", name, "\n\n".join(inspect.getdoc(value) or "" for value in vars(module).values()))
        lines = inspect.getsource(module).splitlines(keepends=True)
        for _ in range(5):
            start = draw.randrange(len(lines))
            add("snippets", name, "".join(lines[start : start + draw.randint(1, 9)]))
    add("docs", "long", "one two three " * 30_000)
    add("docs", "empty", "")
    add("docs", "odd", "\0 \u2581 ﬁ 日本 \r\n\t")
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return documents


@pytest.fixture(scope="session")
def documents_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "part-0.jsonl"
    write_documents(path)
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, documents_file) -> Path:
    """A token data set of three sources, packed for 32 and 128."""
    from data_beam.tokens import tokenize
    from maxllm.config.tokenize import TokenizeConfig

    output = tmp_path_factory.mktemp("tokens") / "out"
    config = TokenizeConfig(
        documents=[str(documents_file)],
        output=str(output),
        tokenizer={"vocab_size": 1024},
        held_out={"fraction": 0.3},
        sequence_lengths=[32, 128],
        shards=2,
    )
    tokenize(config)
    return output
