"""The two readings of "word" that curation uses, and the hashes of the second."""

from __future__ import annotations

import re

import numpy as np
import xxhash

_NORMALISED = re.compile(r"\w+")

# Odd 64-bit constant (splitmix64's increment): the base of the polynomial over word hashes.
_BASE = np.uint64(0x9E3779B97F4A7C15)


def normalised_words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and underscores: punctuation, white space and case make no difference.

    What duplicates and evaluation items are compared by. Numbers and accents are kept: pages that differ only in
    their figures are different pages (datatrove folds both away).
    """
    return _NORMALISED.findall(text.lower())


def text_hash(text: str) -> str:
    """64-bit xxh3, 16 hex digits: tells whether a text is the one that was measured."""
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))


class _Hashes(dict[str, int]):
    """xxh3 of words. Remembers the first 200,000 short ones, some 20 MB: most words of most texts are among them."""

    def __missing__(self, word: str) -> int:
        value = xxhash.xxh3_64_intdigest(word.encode())
        if len(self) < 200_000 and len(word) <= 32:
            self[word] = value
        return value


_hashes = _Hashes()


def word_hashes(words: list[str]) -> np.ndarray:
    """64-bit xxh3 of each word, uint64 [words]: the same on every worker, unlike Python's own hash."""
    return np.fromiter(map(_hashes.__getitem__, words), np.uint64, len(words))


def ngram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hash of each run of n words from the hashes of its words, uint64 [max(words - n + 1, 0)].

    A polynomial in an odd base modulo 2^64, finished by splitmix64's mixer so that all bits depend on all words.
    Order matters; n fixed.
    """
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = hashes[:count].copy()
    for offset in range(1, n):
        total *= _BASE
        total += hashes[offset : offset + count]
    return mix(total)


def mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer, in place: a bijection on uint64."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
