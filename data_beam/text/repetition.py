"""How much of a text repeats itself: the measures of Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1.

Implementations disagree. Ours count as datatrove's, whose output is published as FineWeb: a duplicate is every
occurrence after the first, overlapping n-grams are counted once by walking left to right, and fractions are of all
characters of the text, white space included. (dolma counts the first occurrence too, and divides by the characters
of words alone.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """(how many parts occurred before, their characters)."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


class Repetition:
    """n-gram repetition of one text, in characters.

    Words are given by their numbers (`ids`, int64 [words]) and `lengths` (characters of each of them, int64 [words]).
    An (n+1)-gram can only occur twice where both its n-grams do, so each n looks only at what repeated for n - 1, and
    names pairs exactly: no hashing, no collisions. Time is O(words log words) for n = 2 and shrinks from there.
    """

    def __init__(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        self._lengths_before = np.concatenate([[0], np.cumsum(lengths)])
        self._words = len(ids)
        # Per n, from 1: ascending positions of n-grams (from n = 2 on of repeated ones), their numbers, and how often
        # each number occurs.
        self._levels = [(np.arange(len(ids)), ids, np.bincount(ids))]

    def _level(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        while len(self._levels) < n:
            positions, names, counts = self._levels[-1]
            # Both n-grams inside an (n+1)-gram repeat where a position is followed by the next one.
            follows = np.flatnonzero(positions[1:] - positions[:-1] == 1)
            if len(follows):
                pairs = names[follows] * len(counts) + names[follows + 1]
                names, counts = _number(pairs)
                repeated = counts[names] > 1
                self._levels.append((positions[follows[repeated]], names[repeated], counts))
            else:
                self._levels.append((follows, follows, follows))
        return self._levels[n - 1]

    def _top_ngram(self, n: int) -> tuple[int, int]:
        """(characters of its words, occurrences) of the most frequent n-gram, (0, 0) in a text of fewer words.

        Of equally frequent ones the first in the text counts; when none occurs twice that is the text's first.
        """
        if self._words < n:
            return 0, 0
        positions, names, counts = self._level(n)
        start, times = 0, 1
        if len(positions):
            times = int(counts.max())
            start = int(positions[np.argmax(counts[names] == times)])
        return int(self._lengths_before[start + n] - self._lengths_before[start]), times

    def top_ngram_characters(self, n: int) -> int:
        """Characters of the most frequent n-gram, spaces between its words included, times its occurrences."""
        letters, times = self._top_ngram(n)
        return (letters + n - 1) * times

    def top_ngram_letters(self, n: int) -> int:
        """The same without spaces, as dolma counts."""
        letters, times = self._top_ngram(n)
        return letters * times

    def repeated_ngram_letters(self, n: int) -> int:
        """Characters, without spaces, of n-grams that occur more than once, each time, overlapping or not (dolma)."""
        positions, _, _ = self._level(n)
        return int((self._lengths_before[positions + n] - self._lengths_before[positions]).sum())

    def ngram_letters(self, n: int) -> int:
        """Characters, without spaces, of all n-grams, overlapping ones each for itself (dolma)."""
        return int((self._lengths_before[n:] - self._lengths_before[:-n]).sum()) if self._words >= n else 0

    def duplicate_ngram_characters(self, n: int) -> int:
        """Characters, without spaces, inside n-grams seen before; after one the walk goes on behind it."""
        positions, names, _ = self._level(n)
        if not len(positions):
            return 0
        seen: set[int] = set()
        characters, free_from = 0, 0
        before = self._lengths_before
        for position, name in zip(positions.tolist(), names.tolist(), strict=True):
            if position < free_from:
                continue
            if name in seen:
                characters += int(before[position + n] - before[position])
                free_from = position + n
            else:
                seen.add(name)
        return characters


def _number(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a number for each value, equal ones alike; how often each number occurs). np.unique with less to do."""
    order = values.argsort(kind="stable")
    ranked = values[order]
    fresh = np.zeros(len(values), np.int64)
    np.not_equal(ranked[1:], ranked[:-1], out=fresh[1:], casting="unsafe")
    numbers = np.empty(len(values), np.int64)
    numbers[order] = fresh.cumsum()
    return numbers, np.bincount(numbers)
