"""Gopher's numbers as dolma counts them: dolma 1.2.1's own for one text, a slow twin of its tagger for many."""

import random
import statistics
from collections import Counter

import pytest

from data_beam.text.ratios import DolmaRatios
from data_beam.text.signals import Signals

# What dolma 1.2.1's gopher_v1 says of this text.
TEXT = "- the cat sat\n\n- the cat sat\n#1 of … the\nI be…\n\n"
GOLD = {
    "word_count": 14,
    "median_word_length": 3,
    "symbol_word_ratio": 3 / 14,
    "alphabetic_word_fraction": 10 / 14,
    "stop_word_occurrences": 4,
    "bullet_line_fraction": 2 / 7,
    "ellipsis_line_fraction": 1 / 7,
    "duplicate_line_fraction": 5 / 7,
    "duplicate_line_character_fraction": 26 / 32,
}


def test_a_text_has_the_numbers_that_dolma_gives_it():
    measured = Signals(TEXT).dolma
    for name, value in GOLD.items():
        assert getattr(measured, name) == pytest.approx(value), name
    # "- the", "- the cat" and "- the cat sat" twice, of 32 characters of words.
    for n, letters in ((2, 4), (3, 7), (4, 10)):
        assert measured.top_ngram_character_fraction(n) == pytest.approx(2 * letters / 32)
    assert measured.duplicate_ngram_character_fraction(5) == 0


def twin(text: str) -> dict[str, float]:
    """dolma's definitions, written out once more."""
    words = text.split()
    characters = sum(map(len, words))
    lines = text.split("\n")
    line_counts = Counter(lines)
    repeated = [line for line in lines if line_counts[line] > 1]
    values = {
        "word_count": len(words),
        "median_word_length": statistics.median(map(len, words)) if words else 0,
        "symbol_word_ratio": sum("#" in word or "…" in word for word in words) / max(len(words), 1),
        "bullet_line_fraction": sum(line[:1] in ("*", "-") for line in lines if line) / len(lines),
        "ellipsis_line_fraction": sum(line[-1:] == "…" for line in lines) / len(lines),
        "duplicate_line_fraction": len(repeated) / len(lines),
    }
    if words:
        values["duplicate_line_character_fraction"] = sum(map(len, repeated)) / characters
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if grams:
            top, times = counts.most_common(1)[0]
            values[f"top{n}"] = times * len("".join(top)) / characters
            again = sum(len("".join(gram)) for gram in grams if counts[gram] > 1)
            values[f"duplicate{n}"] = again / sum(len("".join(gram)) for gram in grams)
    return values


def measured(ratios: DolmaRatios, name: str) -> float:
    if name.startswith("top"):
        return ratios.top_ngram_character_fraction(int(name[3:]))
    if name.startswith("duplicate") and name[9:].isdigit():
        return ratios.duplicate_ngram_character_fraction(int(name[9:]))
    return getattr(ratios, name)


@pytest.mark.parametrize("seed", range(60))
def test_random_texts_have_the_numbers_of_the_twin(seed):
    rng = random.Random(seed)
    vocabulary = ["the", "of", "#", "a…", "…", "word", "-", "*x", "7", "long-winded"][: rng.randint(1, 10)]
    text = "".join(
        rng.choice(vocabulary) + rng.choice([" ", " ", "\n", "\n\n"]) for _ in range(rng.choice([0, 3, 40, 300]))
    )
    ratios = Signals(text).dolma
    for name, value in twin(text).items():
        assert measured(ratios, name) == pytest.approx(value), name
