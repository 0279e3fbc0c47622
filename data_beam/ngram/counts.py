"""Counting n-grams, and Kneser-Ney's adjusted counts.

An adjusted count is how many different words, <s> among them, stand before an n-gram; for n-grams of the highest order
and for those that begin with <s> it is how often they occur (Heafield et al. 2013, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import numpy as np

from data_beam.ngram.block import Block, concatenate, groups
from data_beam.ngram.prepare import BOS, EOS


def count_ngrams(lines: Iterable[list[str]], order: int) -> Block | None:
    """N-grams of the highest order with their count; a line is padded by order - 1 <s> before and one </s> behind."""
    place = {BOS: 0, EOS: 1}
    flat: list[int] = []
    padding = [0] * (order - 1)
    for words in lines:
        flat += padding
        flat += [place.setdefault(word, len(place)) for word in words]
        flat.append(1)
    if not flat:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.array(flat, np.int32), order)
    windows = windows[windows[:, -1] != 0] if order > 1 else windows
    counts = np.ones(len(windows), np.int64)
    return summed(Block(list(place), windows, (counts,)))


def summed(block: Block) -> Block:
    """Equal n-grams are one, their columns (integers below 2^53) summed."""
    *_, (first, group) = groups(list(block.ids.T[::-1]), len(block.words))
    columns = (np.bincount(group, column).astype(np.int64) for column in block.columns)
    return Block(block.words, block.ids[first], tuple(columns))


def adjusted(blocks: list[Block], order: int, prune: list[int]) -> Iterator[Block]:
    """For each order the n-grams that end in the words of this shard: columns adjusted count, and how often they occur.

    `blocks` are all n-grams of the highest order with the same home. Of single words, these are only this shard's
    parts of the two numbers.
    """
    block = concatenate(blocks)
    bos = block.words.index(BOS) if BOS in block.words else -1
    levels = list(groups(list(block.ids.T[::-1]), len(block.words)))
    for n, (first, group) in enumerate(levels, 1):
        rows = block.ids[first, order - n :]
        occurs = np.bincount(group, block.columns[0]).astype(np.int64)
        adjusted_count = occurs
        if n < order:
            longer = levels[n][0]  # a row of each n-gram one longer
            extensions = np.bincount(group[longer], minlength=len(first))
            adjusted_count = np.where(rows[:, 0] == bos, occurs, extensions) if n > 1 else extensions
        # A row of padding has <s> in another place than the first.
        real = rows[:, 1] != bos if n > 1 else np.ones(len(rows), bool)
        yield Block(block.words, rows[real], (adjusted_count[real], occurs[real]))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the n-grams of one order, all or a part of them; parts add up."""

    n1: int  # how many have the adjusted count 1, and so on
    n2: int
    n3: int
    n4: int
    total: int  # how many there are
    kept: int  # how many are left after pruning
    kept1: int  # of those left, how many have the adjusted count 1, and so on
    kept2: int
    kept3: int  # three or more
    mass: int  # sum of the adjusted counts
    pruned_mass: int  # of those not left

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def statistics(adjusted_count: np.ndarray, kept: np.ndarray) -> Statistics:
    left = adjusted_count[kept]
    return Statistics(
        *(int((adjusted_count == k).sum()) for k in (1, 2, 3, 4)),
        total=len(adjusted_count),
        kept=len(left),
        kept1=int((left == 1).sum()),
        kept2=int((left == 2).sum()),
        kept3=int((left >= 3).sum()),
        mass=int(adjusted_count.sum()),
        pruned_mass=int(adjusted_count[~kept].sum()),
    )
