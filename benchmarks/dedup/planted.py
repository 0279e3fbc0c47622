"""Documents with planted copies of every likeness: real texts, and copies with a share of their words edited."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Any

from data_beam.text.words import normalised_words

# Shares of words edited. One edit takes up to five 5-grams with it: similarities from 1 down to about 0.3.
EDITS = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08)
COPIED = 0.5  # of the real documents


def edited(text: str, share: float, vocabulary: list[str], rng: random.Random) -> str:
    """The text with that share of its words replaced, left out or preceded by another; lines stay lines."""
    lines = []
    for line in text.split("\n"):
        words = []
        for word in line.split(" "):
            if word and rng.random() < share:
                words += [[rng.choice(vocabulary)], [], [rng.choice(vocabulary), word]][rng.randrange(3)]
            else:
                words.append(word)
        lines.append(" ".join(words))
    return "\n".join(lines)


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    words = normalised_words(text)
    return frozenset(zip(*(words[i:] for i in range(5)), strict=False))


def jaccard(left: frozenset, right: frozenset) -> float:
    """Of sets of word 5-grams; 1 for two texts that have none."""
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def build(texts: Iterable[str], count: int, seed: int) -> list[dict[str, Any]]:
    """About `count` documents: {id, text, of}, `of` the id of the real one for planted copies."""
    real = sorted(set(texts), key=lambda text: hashlib.sha256(f"{seed} {text}".encode()).digest())
    real = real[: round(count / (1 + COPIED))]
    rng = random.Random(seed)
    vocabulary = sorted({word for text in real for word in normalised_words(text)})
    rows: list[dict[str, Any]] = [{"id": f"r{i:06d}", "text": text, "of": None} for i, text in enumerate(real)]
    for number, source in enumerate(rng.sample(range(len(real)), round(len(real) * COPIED))):
        text = edited(real[source], EDITS[number % len(EDITS)], vocabulary, rng)
        rows.append({"id": f"p{number:06d}", "text": text, "of": f"r{source:06d}"})
    rng.shuffle(rows)
    return rows
