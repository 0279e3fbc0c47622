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
    """n-gram repetition of one text, in characters, for n in ascending order or any other.

    Words are given by their numbers (`ids`, int64 [words]) and `lengths` (characters of each of them, int64 [words]).
    An (n+1)-gram can only occur twice where both its n-grams do, so each n looks only at what repeated for n - 1, and
    names pairs exactly: no hashing, no collisions. Time is O(words log words) for n = 2 and shrinks from there.
    """

    def __init__(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        self._lengths_before = np.concatenate([[0], np.cumsum(lengths)])
        self._first_length = int(lengths[0]) if len(lengths) else 0
        self._words = len(ids)
        # Per n: positions that hold a repeated n-gram, and its number; positions ascend.
        self._repeated: list[tuple[np.ndarray, np.ndarray, int]] = [(np.arange(len(ids)), ids, len(ids))]

    def _level(self, n: int) -> tuple[np.ndarray, np.ndarray, int]:
        """(positions, names, number of names) of the n-grams that occur at least twice."""
        while len(self._repeated) < n:
            positions, names, names_count = self._repeated[-1]
            if not len(positions):
                self._repeated.append(self._repeated[-1])
                continue
            # Positions followed by a position: both n-grams inside the (n+1)-gram repeat.
            follows = np.flatnonzero(np.diff(positions) == 1)
            pairs = names[follows] * names_count + names[follows + 1]
            unique, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
            repeated = counts[inverse] > 1
            self._repeated.append((positions[follows][repeated], inverse[repeated], len(unique)))
        return self._repeated[n - 1]

    def top_ngram_characters(self, n: int) -> int:
        """Characters of the most frequent n-gram, spaces between its words included, times its occurrences.

        Of equally frequent ones the first in the text counts; when none occurs twice that is the text's first.
        """
        if self._words < n:
            return 0
        positions, names, _ = self._level(n)
        if not len(positions):
            return int(self._lengths_before[n]) + n - 1
        _, first, counts = np.unique(names, return_index=True, return_counts=True)
        best = counts.max()
        start = positions[first[counts == best].min()]
        return (int(self._lengths_before[start + n] - self._lengths_before[start]) + n - 1) * int(best)

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
