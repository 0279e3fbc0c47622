"""A corpus of any size: real texts over and over, each time with a fifth of the words exchanged.

Two copies then share a twentieth of their word 5-grams and are nobody's near duplicates; one document in twenty is a
planted one, the document before it with a hundredth of the words exchanged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent / "curation")]

from corpus import docstrings, web  # noqa: E402  benchmarks/curation's: where real texts come from

EXCHANGED, NEAR, NEAR_SHARE = 0.2, 0.01, 0.05


def real_texts(shared: Path, characters: int = 4_000_000) -> list[str]:
    """Web pages where there are any, and docstrings up to that many characters in all."""
    texts = list(web(shared))
    size = sum(map(len, texts))
    for text in docstrings():
        if size >= characters:
            break
        texts.append(text)
        size += len(text)
    return texts


def exchanged(words: np.ndarray, others: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Words (an array of str objects) with that share of them replaced by others; what holds a new line stays."""
    places = rng.integers(0, len(words), round(share * len(words)))
    places = [place for place in places.tolist() if "\n" not in words[place]]
    words = words.copy()
    words[places] = others[rng.integers(0, len(others), len(places))]
    return words


def documents(texts: list[str], size: int, seed: int) -> Iterator[str]:
    """Texts of `size` characters in all. Words are exchanged for others as frequent, so rules find what they know."""
    rng = np.random.default_rng(seed)
    split = [np.array(text.split(" "), object) for text in texts]
    others = np.array([word for text in texts for word in text.split()], object)
    written, last = 0, split[0]
    while written < size:
        if written and rng.random() < NEAR_SHARE:
            words = exchanged(last, others, NEAR, rng)
        else:
            words = last = exchanged(split[rng.integers(len(split))], others, EXCHANGED, rng)
        text = " ".join(words.tolist())
        written += len(text)
        yield text


def write(texts: list[str], folder: Path, size: int, file_size: int, seed: int) -> int:
    """JSON lines in files of about `file_size` characters of text; how many documents."""
    folder.mkdir(parents=True)
    count = room = files = 0
    stream = None
    for text in documents(texts, size, seed):
        if stream is None or room <= 0:
            if stream:
                stream.close()
            stream, room, files = (folder / f"{files:05d}.jsonl").open("w", encoding="utf-8"), file_size, files + 1
        added = f"2024-01-{1 + count % 28:02d}T00:00:00Z"
        stream.write(json.dumps({"id": str(count), "text": text, "added": added}, ensure_ascii=False) + "\n")
        room -= len(text)
        count += 1
    if stream:
        stream.close()
    return count
