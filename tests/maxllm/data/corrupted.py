"""Packed rows without a data set, and what corrupts them, for the tests beside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxllm.batch import Batch, empty_batch
from maxllm.data.draws import Draw, generator
from maxllm.data.packing import fill_row
from maxllm.data.special_ids import Ids

WORDS = range(10, 900)  # of a vocabulary of 1000, in which the others are marks
STOPS = range(10, 30)  # words that end with a full stop
VOCABULARY = np.isin(np.arange(1000), WORDS)
IDS = Ids(
    VOCABULARY,
    np.isin(np.arange(1000), STOPS),
    begin=1,
    end=2,
    mask=3,
    start=0,
    sentinels=np.arange(1999, 1000, -1, dtype=np.int32),
    modes=np.array([4, 5, 6], np.int32),
    holes=np.array([7, 8, 9], np.int32),
)


def packed(lengths: Sequence[Sequence[int]], length: int, seed: int = 0) -> Batch:
    """Rows of whole documents, each of so many tokens but for its last, which is a target alone: 1 words 2."""
    random, batch = np.random.default_rng(seed), empty_batch(len(lengths), length)
    for row, sizes in enumerate(lengths):
        documents = [random.choice(WORDS, size + 1) for size in sizes]
        for document in documents:
            document[0], document[-1] = 1, 2
        fill_row(batch, row, [(document, 0, len(document) - 1) for document in documents])
    return batch


def draws(count: int, key: object = 0) -> list[Draw]:
    other = packed([[400]], 400, seed=99)
    return [Draw(generator(key, row), lambda random: other) for row in range(count)]


def near(found: float, expected: float, count: int, deviations: float = 4.5) -> bool:
    """Whether a share of `count` is within a binomial's bounds: missed by chance once in 150,000 times."""
    return abs(found - expected) <= deviations * np.sqrt(expected * (1 - expected) / count)
