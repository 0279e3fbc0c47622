"""An encoder that needs no model: words and pairs of words, hashed into a vector.

Feature hashing (Weinberger et al. 2009, arXiv 0902.2206): each word and each pair of neighbouring words adds
1 + ln(count), with a sign, to one of 1,024 places. It is lexical: it sees which words a text is made of, and little of
their order. It finds copies with edits, cuts, insertions and moved parts; it does not see that other words say the
same, and it takes texts of one template (two problems of one textbook) for closer than they are. Common words count
like any other: how many texts a word is in would take a pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_beam.dedup.pieces import pieces_of, run_hashes

DIMENSION = 1024


def encode(texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, 1024]; zeros for a text without a word."""
    return np.stack([_vector(text) for text in texts]).astype(np.float32)


def _vector(text: str) -> np.ndarray:
    pieces = pieces_of(text.lower())
    words = pieces.hashes[pieces.words]
    at = np.arange(max(len(words) - 1, 0))
    vector = np.zeros(DIMENSION)
    for hashes in (words, run_hashes(words, at, at + 2)):
        names, counts = np.unique(hashes, return_counts=True)
        values = 1 + np.log(counts)
        signed = np.where(names >> np.uint64(63), values, -values)
        places = (names % np.uint64(DIMENSION)).astype(np.int64)
        vector += np.bincount(places, weights=signed, minlength=DIMENSION)
    return vector
