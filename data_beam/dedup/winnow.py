"""Which places of a text are compared: blocks of n-grams named by an anchor that equal n-grams always share.

Schleimer, Wilkerson and Aiken 2003, "Winnowing: local algorithms for document fingerprinting": of the w k-grams inside
an n-gram (w = n - k + 1) the one of smallest hash is its anchor, the leftmost of equals. It is a property of the
n-gram alone, so equal n-grams have equal anchors, and an anchor that occurs once stands for n-grams that occur once.
Neighbouring n-grams mostly share it: about 2 / (w + 1) anchors a piece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_beam.dedup.pieces import Pieces, run_hashes

_HEADER = struct.Struct("<IIB")  # first start, first end, bytes a step takes


@dataclass(frozen=True, slots=True)
class Grams:
    """Consecutive n-grams of a text. `hashes` uint64 [n-grams]; `starts`, `ends` int64 [n-grams], bounds of Pieces."""

    hashes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def blocks(pieces: Pieces, n: int) -> tuple[list[tuple[bytes, bytes]], np.ndarray]:
    """([(anchor, packed Grams)], spans int64 [m, 2] of what repeats within this text).

    An n-gram that occurred before in the same text is in no block: every other text is compared with its first
    occurrence. Its pieces are cut but for those that belong to that first occurrence too, so that of a row of one word
    n words stay.
    """
    count = len(pieces.hashes) - n + 1
    if count <= 0:
        return [], np.empty((0, 2), np.int64)
    at = np.arange(count)
    hashes = run_hashes(pieces.hashes, at, at + n)
    _, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
    first = first[numbers]
    again = np.flatnonzero(first < at)
    cuts = _covered(np.maximum(again, first[again] + n), again + n, len(pieces.hashes))
    fresh = np.flatnonzero(first == at)
    k = max(1, n // 2)
    at = np.arange(len(pieces.hashes) - k + 1)
    anchors = run_hashes(pieces.hashes, at, at + k)
    places = leftmost_minima(anchors, n - k + 1)[fresh]
    grams = Grams(hashes[fresh], pieces.bounds[fresh], pieces.bounds[fresh + n])
    return list(_pack(anchors[places], places, grams)), pieces.bounds[cuts]


def leftmost_minima(values: np.ndarray, window: int) -> np.ndarray:
    """Index of the smallest value in each window, the leftmost of equals: int64 [len(values) - window + 1]."""
    best, width = np.arange(len(values)), 1
    while width < window:
        step = min(width, window - width)
        left, right = best[:-step], best[step:]
        best = np.where(values[left] <= values[right], left, right)
        width += step
    return best


def _covered(starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """The union of [start, end) as ascending runs: int64 [runs, 2]."""
    change = np.bincount(starts, minlength=length + 1) - np.bincount(ends, minlength=length + 1)
    inside = np.concatenate([[False], np.cumsum(change) > 0])
    return np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2)


def _pack(names: np.ndarray, places: np.ndarray, grams: Grams) -> Iterator[tuple[bytes, bytes]]:
    """A block for each run of n-grams with their anchor in one place: (8 bytes, header + hashes + steps)."""
    steps = np.stack([np.diff(grams.starts, prepend=grams.starts[0]), np.diff(grams.ends, prepend=grams.ends[0])])
    first = np.flatnonzero(np.diff(places, prepend=-1))
    steps[:, first] = 0
    size = 1 if steps.max() < 1 << 8 else 2 if steps.max() < 1 << 16 else 4
    hashes = grams.hashes.astype("<u8").tobytes()
    starts, ends = (row.astype(f"<u{size}").tobytes() for row in steps)
    keys = names.astype("<u8").tobytes()
    cut = np.append(first, len(places)).tolist()
    heads = zip(grams.starts[first].tolist(), grams.ends[first].tolist(), strict=True)
    for low, high, head in zip(cut[:-1], cut[1:], heads, strict=True):
        span = slice(low * size, high * size)
        packed = _HEADER.pack(*head, size) + hashes[low * 8 : high * 8] + starts[span] + ends[span]
        yield keys[low * 8 : low * 8 + 8], packed


def unpack(packed: bytes) -> Grams:
    start, end, size = _HEADER.unpack_from(packed)
    count = (len(packed) - _HEADER.size) // (8 + 2 * size)
    hashes = np.frombuffer(packed, "<u8", count, _HEADER.size)
    steps = np.frombuffer(packed, f"<u{size}", 2 * count, _HEADER.size + 8 * count).astype(np.int64)
    return Grams(hashes, start + np.cumsum(steps[:count]), end + np.cumsum(steps[count:]))
