"""The fast n-gram measures against the obvious ones, which are those of datatrove's published code."""

import random
from collections import Counter

import pytest

from data_beam.text.repetition import duplicates
from data_beam.text.signals import Signals


def slow_top(words: list[str], n: int) -> int:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count


def slow_duplicate(words: list[str], n: int) -> int:
    seen, characters, i = set(), 0, 0
    while i < len(words) - n + 1:
        gram = tuple(words[i : i + n])
        if gram in seen:
            characters += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


@pytest.mark.parametrize("seed", range(60))
def test_ngram_measures_equal_their_slow_twins(seed):
    rng = random.Random(seed)
    vocabulary = ["w" * rng.randint(1, 5) + str(i) for i in range(rng.choice([1, 2, 3, 8, 40]))]
    words = rng.choices(vocabulary, k=rng.choice([0, 1, 2, 5, 30, 200]))
    if seed % 2:
        words = words + words[len(words) // 3 :]  # a long repeated passage
    signals = Signals(" ".join(words))
    orders = list(range(1, 11))
    rng.shuffle(orders)
    for n in orders:
        assert signals.repetition.top_ngram_characters(n) == slow_top(words, n), n
        assert signals.repetition.duplicate_ngram_characters(n) == slow_duplicate(words, n), n


def test_by_hand():
    signals = Signals("a bb a bb a bb cc")  # 17 characters
    assert signals.top_ngram_character_fraction(2) == 3 * 4 / 17  # "a bb" three times
    assert signals.top_ngram_character_fraction(3) == 2 * 6 / 17  # "a bb a" before "bb a bb", both twice
    assert signals.duplicate_ngram_character_fraction(2) == 6 / 17  # "a bb" again, and again
    assert signals.duplicate_ngram_character_fraction(3) == 4 / 17  # "a bb a" again
    assert signals.duplicate_ngram_character_fraction(5) == 0


def test_a_repeated_part_counts_from_its_second_time_on():
    assert duplicates(["ab", "c", "ab", "ab"]) == (2, 4)
    assert duplicates([]) == (0, 0)
