"""Random numbers of a row, whoever makes it: they depend on the seed, the step and the row's number alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_beam.token_format import hash64
from maxllm.batch import Batch


class Draw(NamedTuple):
    """What one row of a batch may be corrupted with."""

    random: np.random.Generator
    other: Callable[[np.random.Generator], Batch]  # -> one row of the same source, of other documents


def generator(*key: object) -> np.random.Generator:
    """The same numbers for the same words: Philox, counted from a hash of them (Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=hash64("corrupt", *key)))
