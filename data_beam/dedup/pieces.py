"""A text as the pieces that repeated passages are made of, all at once in NumPy: their hashes and where they start.

A piece is a run of letters, digits, underscores and combining marks, or a run of other characters; white space parts
pieces and is none. In scripts written without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) each character is one. So
a piece is about a token of the tokenizers in use, needs no vocabulary, and is the same whatever stands beside it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np

from data_beam.text.words import mix

SPACE, WORD, SIGN, ALONE = 0, 1, 2, 3
# First and last code points of scripts whose words are not parted by spaces.
_ALONE = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
# Odd, so that it has an inverse modulo 2^64: powers can be divided out of a prefix sum.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_BLOCK = 1 << 14  # pieces


@dataclass(frozen=True, slots=True)
class Pieces:
    """`hashes`: uint64 [pieces]. `words`: bool [pieces], false for signs.

    `bounds`: int64 [pieces + 1], where each piece starts, then where the text ends. A bound is 2 × the
    offset in characters, plus 1 where white space (or the beginning of the text) stands before it.
    """

    hashes: np.ndarray
    words: np.ndarray
    bounds: np.ndarray


def pieces_of(text: str) -> Pieces:
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[characters]
    breaks = np.ones(len(kinds) + 1, bool)
    if len(kinds):
        np.not_equal(kinds[1:], kinds[:-1], out=breaks[1:-1])
        breaks[1:-1] |= kinds[1:] == ALONE
    solid = kinds != SPACE
    starts = np.flatnonzero(breaks[:-1] & solid)
    ends = np.flatnonzero(breaks[1:] & solid) + 1
    spaced = np.ones(len(starts) + 1, np.int64)
    spaced[1:-1] = starts[1:] > ends[:-1]
    spaced[-1] = not len(ends) or ends[-1] < len(text)
    bounds = np.append(starts, len(text)) * 2 + spaced
    return Pieces(run_hashes(characters, starts, ends), words=kinds[starts] != SIGN, bounds=bounds)


def run_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Hash of values[start:end] for each pair, uint64: a polynomial modulo 2^64 of the mixed values, mixed again.

    The same for equal runs wherever they stand. `values`: unsigned [n]; `starts` and `ends`: ascending, int64 [m]. In
    blocks, which stay in the processor's cache and keep a long text from taking 50 bytes a character.
    """
    hashes = np.empty(len(starts), np.uint64)
    for low in range(0, len(starts), _BLOCK):
        first, last = starts[low : low + _BLOCK], ends[low : low + _BLOCK]
        hashes[low : low + _BLOCK] = _run_hashes(values[first[0] : last[-1]], first - first[0], last - first[0])
    return hashes


def _run_hashes(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """By prefix sums: sum of value[i] base^i over the run, divided by base^start."""
    powers = np.full(len(values) + 1, _BASE)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(mix(values.astype(np.uint64)) * powers[:-1], out=sums[1:])
    powers[1:] = _INVERSE
    np.multiply.accumulate(powers, out=powers)
    return mix((sums[ends] - sums[starts]) * powers[starts])


@cache
def _kinds() -> np.ndarray:
    """What each code point is: uint8 [0x110000]."""
    kinds = np.full(0x110000, SIGN, np.uint8)
    for point in range(0x20000):  # beyond are Han, and planes without letters
        character = chr(point)
        if character.isspace():
            kinds[point] = SPACE
        elif character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M":
            kinds[point] = WORD
    for first, last in _ALONE:
        part = kinds[first : last + 1]
        part[(part == WORD) | (first >= 0x20000)] = ALONE
    return kinds
