"""Real texts, and newer versions of some that say the same: edited by rule, or rewritten by people for learners.

And texts that say different things in the same words: problems of MATH and MBPP with their solutions. Each is a problem
of its own (a few do repeat), so what goes of them is taken for wrong.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

KINDS = ("5 % of words", "20 % of words", "sentences shuffled", "first half", "rewritten, Int", "rewritten, Ele")
PROBLEMS = "problems"
EACH = 100
_MATH = "corpus/math_MATH_test_with_solutions"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def build(data: Path, seed: int) -> list[dict[str, Any]]:
    """{id, text, origin, kind}: kind "" is an old text; a newer one has the origin of the text it was made from."""
    rng = random.Random(seed)
    web = [row["text"] for name in ("corpus/c4_demo", "quality/dclm_majority_data") for row in _rows(data, name)]
    web = sorted({text for text in web if 100 <= len(text.split()) <= 3000})
    rng.shuffle(web)
    levels: dict[str, dict[str, str]] = {}
    for row in _rows(data, "quality/onestop_english"):
        text = re.sub(r"^Intermediate\s*", "", row["text"].lstrip("\ufeff "))
        levels.setdefault(row["file"].rpartition("-")[0].strip().lower(), {}).setdefault(row["level"], text)
    vocabulary = [word for text in web[:200] for word in text.split()]
    rows = []

    def add(origin: str, text: str, kind: str = "") -> None:
        name = f"{origin} {kind}".strip()
        rows.append({"id": name, "text": text, "origin": origin, "kind": kind})

    for number, text in enumerate(web):
        add(f"web{number:03d}", text)
        if number < 4 * EACH:
            kind = KINDS[number % 4]
            add(f"web{number:03d}", _edited(text, kind, vocabulary, rng), kind)
    for number, name in enumerate(sorted(levels)):
        level = ("Int", "Ele")[number % 2]
        add(name, levels[name]["Adv"])
        add(name, levels[name][level], f"rewritten, {level}")
    problems = [f"{row['context']} {row['chain_of_thought']}" for row in _rows(data, _MATH)]
    problems = rng.sample(problems, 1000)
    problems += [f"{row['text']}\n{row['code']}" for row in _rows(data, "eval/mbpp/mbpp")]
    for number, text in enumerate(problems):
        add(f"problem{number:04d}", text, PROBLEMS)
    return rows


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(data / f"{name}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def _edited(text: str, kind: str, vocabulary: list[str], rng: random.Random) -> str:
    words = text.split()
    if kind == "sentences shuffled":
        sentences = _SENTENCE.split(text)
        return " ".join(rng.sample(sentences, len(sentences)))
    if kind == "first half":
        return " ".join(words[: len(words) // 2])
    for place in rng.sample(range(len(words)), len(words) * int(kind.split()[0]) // 100):
        words[place] = rng.choice(vocabulary)
    return " ".join(words)
