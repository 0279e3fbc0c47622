"""The documents both programs read: real docstrings, and planted copies whose source is known."""

from __future__ import annotations

import ast
import gzip
import hashlib
import inspect
import json
import random
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_beam.text.words import normalised_words

MIN_CHARACTERS, MAX_CHARACTERS = 600, 20_000
# Prose is nine parts in ten letters and white space; tables, signatures and examples of code are less.
MIN_LETTERS = 0.9
# Of the real documents: a fifth is copied with edits, a twentieth as it is.
NEAR_SHARE, EXACT_SHARE, EDITED_WORDS = 0.2, 0.05, 0.03


def docstrings() -> Iterator[str]:
    """Docstrings of the standard library and the installed packages, read and never imported."""
    paths = sysconfig.get_paths()
    for root in (Path(paths["stdlib"]), Path(paths["purelib"])):
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            if {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(parts):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, OSError, ValueError, RecursionError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = inspect.cleandoc(ast.get_docstring(node) or "")
                    if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS and letters(text) >= MIN_LETTERS:
                        yield text


def letters(text: str) -> float:
    return sum(character.isalpha() or character.isspace() for character in text) / len(text)


def from_files(paths: list[Path]) -> Iterator[str]:
    """Texts of JSON lines files (`text` of each line), plain or .gz."""
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            for line in stream:
                text = json.loads(line)["text"]
                if MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
                    yield text


def web(shared: Path) -> Iterator[str]:
    """Pages of C4, of dolma's and DCLM's shares of Common Crawl, and long articles of Wikipedia; none where absent."""
    for pattern in ("corpus/c4_demo.jsonl.gz", "corpus/dolma_cc/*.jsonl.gz", "quality/dclm_majority_data.jsonl.gz"):
        yield from from_files(sorted(shared.glob(pattern)))
    for path in shared.glob("corpus/wiki_demo.txt.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield from (line.strip() for line in stream if len(line) >= MIN_CHARACTERS)


def edited(text: str, vocabulary: list[str], rng: random.Random) -> str:
    """The text with 3 % of its words replaced, left out or preceded by another; lines stay lines."""
    lines = []
    for line in text.split("\n"):
        words = []
        for word in line.split(" "):
            if word and rng.random() < EDITED_WORDS:
                kind = rng.randrange(3)
                words += [[rng.choice(vocabulary)], [], [rng.choice(vocabulary), word]][kind]
            else:
                words.append(word)
        lines.append(" ".join(words))
    return "\n".join(lines)


def build(texts: Iterable[str], count: int, seed: int) -> list[dict[str, Any]]:
    """At most `count` documents: {id, text, of}, `of` the id of the real one for planted copies."""
    planted_share = NEAR_SHARE + EXACT_SHARE
    real = sorted(set(texts), key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest())
    real = real[: round(count / (1 + planted_share))]
    rng = random.Random(seed)
    vocabulary = sorted({word for text in real for word in normalised_words(text)})
    rows: list[dict[str, Any]] = [
        {"id": f"r{number:05d}", "text": text, "of": None} for number, text in enumerate(real)
    ]
    chosen = rng.sample(range(len(real)), round(len(real) * planted_share))
    near = round(len(real) * NEAR_SHARE)
    for number, source in enumerate(chosen):
        text = edited(real[source], vocabulary, rng) if number < near else real[source]
        rows.append({"id": f"p{number:05d}", "text": text, "of": f"r{source:05d}"})
    rng.shuffle(rows)
    return rows


def write(rows: list[dict[str, Any]], path: Path) -> str:
    """JSON lines that both read; returns the first digits of their sha256, to tell data sets apart."""
    added = "2024-01-01T00:00:00Z"
    records = [json.dumps({"id": row["id"], "text": row["text"], "added": added, "metadata": {}}) for row in rows]
    data = "".join(f"{record}\n" for record in records).encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()[:16]
