"""Importance of documents for a target: Xie et al. 2023, "Data Selection for Language Models via Importance
Resampling".

A document is a bag of hashed n-grams (n = 1 and 2 by default). Both the target and the raw documents are modelled by
one categorical distribution over buckets, and a document's log importance is the sum over its n-grams of
log p_target(bucket) - log p_raw(bucket) (section 3 of arXiv 2302.03169). Adding Gumbel noise to it and keeping the
highest is sampling without replacement in proportion to importance. As in the paper's code no smoothing but a floor
of 1e-8 under both probabilities; words are runs of word characters or of other signs, in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import xxhash

from data_beam.document import Document
from data_beam.text.words import ngram_hashes, word_hashes
from maxllm.config.select import DsirConfig

_WORD_OR_SIGNS = re.compile(r"\w+|[^\w\s]+")
FLOOR = 1e-8
EVERYTHING = "*"


def words_of(text: str) -> list[str]:
    """As nltk's WordPunctTokenizer, in lower case."""
    return _WORD_OR_SIGNS.findall(text.lower())


def bucket_counts(words: list[str], config: DsirConfig) -> np.ndarray:
    """How often each bucket occurs: int64 [buckets]."""
    hashes = word_hashes(words)
    found = [ngram_hashes(hashes, n) for n in range(1, config.ngram + 1)]
    return np.bincount((np.concatenate(found) % np.uint64(config.buckets)).astype(np.int64), minlength=config.buckets)


def log_ratio(target: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """log p_target - log p_raw of each bucket, float64 [buckets], from counts."""

    def log_probability(counts: np.ndarray) -> np.ndarray:
        return np.log(counts / max(counts.sum(), 1) + FLOOR)

    return log_probability(target) - log_probability(raw)


def gumbel(id: str, seed: int) -> float:
    """Standard Gumbel noise of a document: a function of its id and the seed alone."""
    uniform = (xxhash.xxh3_64_intdigest(id.encode("utf-8", "surrogateescape"), seed) + 0.5) / 2**64
    return float(-np.log(-np.log(uniform)))


def score(document: Document, ratio: np.ndarray, config: DsirConfig) -> float:
    """Log importance with noise; -inf for a document that is too short."""
    words = words_of(document.text)
    if len(words) < config.min_words:
        return float("-inf")
    counts = bucket_counts(words, config)
    return float(counts @ ratio) + gumbel(document.id, config.seed)


def key_of(document: Document, config: DsirConfig) -> str:
    """What a document competes in: its source, or everything."""
    return document.source if config.level == "source" else EVERYTHING


class CountBuckets(beam.PTransform):
    """Documents -> (key, bucket counts int64 [buckets]). Counts of a bundle are added up before anything travels."""

    def __init__(self, config: DsirConfig, keyed: bool) -> None:
        super().__init__()
        self.config, self.keyed = config, keyed

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, np.ndarray]]:
        return documents | "counts" >> beam.ParDo(_Count(self.config, self.keyed)) | beam.CombinePerKey(_Sum())


class _Count(beam.DoFn):
    def __init__(self, config: DsirConfig, keyed: bool) -> None:
        self.config, self.keyed = config, keyed

    def process(self, document: Document) -> Iterator[tuple[str, np.ndarray]]:
        words = words_of(document.text)
        if len(words) >= self.config.min_words or not self.keyed:
            yield key_of(document, self.config) if self.keyed else EVERYTHING, bucket_counts(words, self.config)


class _Sum(beam.CombineFn):
    """Integers, so that the order of addition changes nothing."""

    def create_accumulator(self) -> np.ndarray | None:
        return None

    def add_input(self, total: np.ndarray | None, counts: np.ndarray) -> np.ndarray:
        return counts.copy() if total is None else np.add(total, counts, out=total)

    def merge_accumulators(self, totals: list[np.ndarray | None]) -> np.ndarray | None:
        merged = None
        for total in totals:
            if total is not None:
                merged = self.add_input(merged, total)
        return merged

    def extract_output(self, total: np.ndarray | None) -> np.ndarray | None:
        return total
