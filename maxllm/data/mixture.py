"""Which row of which source stands at position j of the training stream, by arithmetic alone.

Nothing is carried from one position to the next, so a reader can begin anywhere, on any number of hosts, and the
place to go on from is one integer.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from data_beam.token_format import hash64

FINEST = 1 << 16  # weights are rounded to multiples of one in this many, where they are not simple fractions
ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Mixture:
    """Interleaves sources by weight: among the first n positions, for every n, each has its share to within one."""

    def __init__(self, weights: Sequence[float]) -> None:
        """A source of weight 0 never stands anywhere."""
        self.counts = np.zeros(len(weights), np.int64)  # per period
        present = np.flatnonzero(np.asarray(weights) > 0)
        self.counts[present] = whole_weights([weights[source] for source in present])
        self._source = interleave(self.counts.tolist())
        self._before = np.zeros(len(self._source), np.int64)  # how often the same source came before, in the period
        for source in range(len(self.counts)):
            at = self._source == source
            self._before[at] = np.arange(at.sum())

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For positions `[n]`: the source of each, and which of that source's elements it is, counted from 0."""
        period, place = np.divmod(positions, len(self._source))
        source = self._source[place]
        return source, period * self.counts[source] + self._before[place]

    def count(self, positions: int) -> np.ndarray:
        """How many elements of each source stand at the first `positions`: `[sources]`."""
        period, rest = divmod(positions, len(self._source))
        return period * self.counts + np.bincount(self._source[:rest], minlength=len(self.counts))


def whole_weights(weights: Sequence[float]) -> list[int]:
    """The smallest integers in proportion to `weights`, summing to at most `FINEST`; none becomes 0.

    Weights are taken as written (0.1 is a tenth). Where that takes more than `FINEST`, they are rounded to it.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    if sum(whole) // math.gcd(*whole) > FINEST:
        total = sum(exact)
        whole = [max(1, round(weight / total * FINEST)) for weight in exact]
    divisor = math.gcd(*whole)
    return [weight // divisor for weight in whole]


def interleave(counts: Sequence[int]) -> np.ndarray:
    """One period: an order of `sum(counts)` elements in which every prefix has each source's share to within one.

    The i-th element of a source with share w may stand from position floor(i / w) on and must stand before
    ceil((i + 1) / w); taking the most urgent one keeps every deadline (P-fair scheduling, Baruah et al. 1996).
    """
    total = sum(counts)
    waiting = [(0, source, 0) for source, count in enumerate(counts) if count]  # (release, source, element)
    ready: list[tuple[int, int, int]] = []  # (deadline, source, element)
    order = np.empty(total, np.int64)
    heapq.heapify(waiting)
    for position in range(total):
        while waiting and waiting[0][0] <= position:
            _, source, element = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(element + 1) * total // counts[source]), source, element))
        _, source, element = heapq.heappop(ready)
        order[position] = source
        if element + 1 < counts[source]:
            heapq.heappush(waiting, ((element + 1) * total // counts[source], source, element + 1))
    return order


def shuffled(elements: np.ndarray, size: int, key: Sequence[object]) -> np.ndarray:
    """Element i of an endless shuffled reading of `size` rows, for elements `[n]` -> rows `[n]`.

    Every epoch (each `size` elements) visits every row once, in an order of its own, given by `key` and the epoch.
    """
    epochs, places = np.divmod(elements, size)
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
        at = epochs == epoch
        rows[at] = permute(places[at], size, hash64("shuffle", *key, int(epoch)))
    return rows


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """A bijection of 0 ... size - 1: a Feistel network on the next even power of two, walked until it lands inside."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = [np.uint64(hash64("round", key, number)) for number in range(ROUNDS)]
    result = places.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> np.uint64(half), result[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_hash(right, round_key) & mask)
        result[outside] = left << np.uint64(half) | right
        outside = result >= size
    return result.astype(np.int64)


def _hash(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014), on wrapping 64-bit integers."""
    mixed = (values ^ key) * _MIX
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)
