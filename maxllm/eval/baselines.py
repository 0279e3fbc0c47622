"""What a model of the text must beat: gzip, and a unigram model of the same tokens."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable

import numpy as np


def gzip_bits(texts: Iterable[bytes]) -> int:
    """Bits of every text compressed by itself with gzip -9, headers included: a document has to be readable alone."""
    return sum(8 * len(gzip.compress(text, compresslevel=9, mtime=0)) for text in texts)


def gzip_bits_concatenated(texts: Iterable[bytes]) -> int:
    """Bits of all texts in one gzip -9 stream, where a document may use the (up to 32 KiB) text before it."""
    stream = zlib.compressobj(9, zlib.DEFLATED, wbits=31)
    return 8 * (sum(len(stream.compress(text)) for text in texts) + len(stream.flush()))


class Unigram:
    """Independent tokens: p(t) = (count(t) + 1) / (sum of counts + vocabulary). Fit on training tokens only."""

    def __init__(self, vocab_size: int):
        self.counts = np.zeros(vocab_size, np.int64)

    def fit(self, ids: np.ndarray) -> None:
        """Adds the tokens `ids` (int, `[length]`) to the counts."""
        self.counts += np.bincount(ids, minlength=len(self.counts))

    def nats(self, ids: np.ndarray) -> float:
        """-ln p of the tokens `ids`, in nats."""
        total = self.counts.sum() + len(self.counts)
        return float(-np.log((self.counts[ids] + 1) / total).sum())
