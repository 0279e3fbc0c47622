"""MinHash signatures and their bands, in NumPy, bit for bit those of datasketch's `affine32` scheme.

Broder 1997, "On the resemblance and containment of documents"; banding: Leskovec et al., "Mining of Massive Datasets",
section 3.4. Two documents of similarity s share a band with probability 1 - (1 - s^rows)^bands.
"""

from __future__ import annotations

import numpy as np
import xxhash

from data_beam.text.signals import Signals
from data_beam.text.words import mix, ngram_hashes
from maxllm.config.dedup import FuzzyDedupConfig

# Values permuted at once, 512 KiB: they stay in the processor's cache.
_BLOCK = 1 << 17


class MinHasher:
    def __init__(self, config: FuzzyDedupConfig) -> None:
        self.unit, self.ngram, self.bands, self.rows = config.unit, config.ngram, config.bands, config.rows
        generator = np.random.RandomState(config.seed)
        permutations = self.bands * self.rows
        self._block = max(_BLOCK // permutations, 16)
        # h -> a h + b modulo 2^32; an odd `a` makes it a bijection. Drawn as datasketch draws them.
        half = generator.randint(0, 1 << 31, permutations, dtype=np.uint32)
        self._a = (half * np.uint32(2) + np.uint32(1))[:, None]
        self._b = generator.randint(0, 1 << 32, permutations, dtype=np.uint32)[:, None]

    def hashes(self, signals: Signals) -> np.ndarray:
        """Of what n-grams are made, uint64 [units]: normalised words, or characters as they are."""
        if self.unit == "word":
            return signals.normalised_hashes
        return mix(np.frombuffer(signals.text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64))

    def shingles(self, hashes: np.ndarray) -> np.ndarray:
        """Hash of each n-gram: uint32 [units - n + 1]. From the units' hashes, uint64 [units]."""
        return (ngram_hashes(hashes, self.ngram) >> np.uint64(32)).astype(np.uint32)

    def signature(self, shingles: np.ndarray) -> np.ndarray:
        """uint32 [bands * rows] from at least one shingle, uint32 [shingles]."""
        shingles = _fmix32(shingles)
        smallest = np.full(len(self._a), 0xFFFFFFFF, np.uint32)
        for start in range(0, len(shingles), self._block):
            permuted = self._a * shingles[start : start + self._block]
            permuted += self._b
            np.minimum(smallest, permuted.min(axis=1), out=smallest)
        return smallest

    def band_keys(self, hashes: np.ndarray) -> list[bytes]:
        """One 128-bit key a band; none for a text shorter than one n-gram, which is then nobody's duplicate."""
        shingles = self.shingles(hashes)
        if not len(shingles):
            return []
        rows = self.signature(shingles).astype("<u4").reshape(self.bands, self.rows)
        return [xxhash.xxh3_128_digest(row.tobytes(), seed=band) for band, row in enumerate(rows)]


def _fmix32(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer on uint32."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values
