"""All evaluation items as sorted n-gram hashes, looked up in the word hashes of a document.

Words are lower-cased runs of letters, digits and underscores, as Brown et al. 2020 (arXiv 2005.14165, appendix C)
compare "ignoring punctuation, casing and white space". A text of fewer than n words is one n-gram of its own length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import xxhash

from data_beam.decontaminate.items import Item, read_items
from data_beam.text.words import ngram_hashes, normalised_words, word_hashes
from maxllm.config.decontaminate import ItemsConfig


class Hit(NamedTuple):
    """An item that a document has n-grams of."""

    number: int  # into Index.items
    fraction: float  # of the item's distinct n-grams


class Found(NamedTuple):
    """What a document has of all items: the items, most complete first, ties in their order."""

    hits: list[Hit]
    share: float  # of the document's n-grams, each occurrence counted, that are some item's


class _Table:
    """Sorted 64-bit hashes with a bitmap before them, as nearly every hash asked for is absent."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes
        self._mask = np.uint64((1 << max(10, (16 * len(hashes)).bit_length())) - 1)
        self._bitmap = np.zeros(int(self._mask) + 1, bool)
        self._bitmap[hashes & self._mask] = True

    def find(self, asked: np.ndarray) -> np.ndarray:
        """Index into `hashes` of each asked one that is there, int64 [found], in the order asked."""
        asked = asked[self._bitmap[asked & self._mask]]
        if not len(asked):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self.hashes, asked), len(self.hashes) - 1)
        return places[self.hashes[places] == asked]


class Index:
    """Small enough to hold per process: 32 bytes an n-gram and its bitmap; 100,000 items of 60 words take 0.2 GB."""

    def __init__(self, items: Iterable[Item], config: ItemsConfig) -> None:
        self.ngram = config.ngram
        self.names: list[str] = []
        self.texts: Counter[str] = Counter()  # benchmark -> texts looked for
        self.too_short: Counter[str] = Counter()  # benchmark -> texts left out
        lines: dict[str, set[int]] = {}
        self.grams: list[np.ndarray] = []  # of each item: sorted distinct n-grams; of a short one, its single one
        short: dict[int, dict[int, list[int]]] = {}
        for item in items:
            lines.setdefault(item.benchmark, set()).add(item.line)
            words = normalised_words(item.text)
            if len(words) < min(config.min_words, config.ngram):
                self.too_short[item.benchmark] += 1
                continue
            number = len(self.names)
            self.names.append(item.name)
            self.texts[item.benchmark] += 1
            hashes = word_hashes(words)
            grams = np.unique(ngram_hashes(hashes, min(self.ngram, len(words))))
            self.grams.append(grams)
            if len(words) < self.ngram:
                short.setdefault(len(words), {}).setdefault(int(grams[0]), []).append(number)
        self.lines = {benchmark: len(numbers) for benchmark, numbers in lines.items()}
        self.lengths = {number: length for length, each in short.items() for group in each.values() for number in group}
        self.distinct = np.array([0 if n in self.lengths else len(g) for n, g in enumerate(self.grams)], np.int64)
        owners = np.repeat(np.arange(len(self.grams)), self.distinct)
        long = [grams for number, grams in enumerate(self.grams) if number not in self.lengths]
        flat = np.concatenate([np.empty(0, np.uint64), *long])
        order = np.argsort(flat, kind="stable")
        unique, starts = np.unique(flat[order], return_index=True)
        self._owners, self._starts = owners[order], np.append(starts, len(flat))
        self._long = _Table(unique)
        self._short: dict[int, tuple[_Table, list[list[int]]]] = {}
        for length, wholes in sorted(short.items()):
            hashes = np.array(sorted(wholes), np.uint64)
            self._short[length] = (_Table(hashes), [wholes[int(each)] for each in hashes])

    @property
    def fingerprint(self) -> str:
        """Of everything that decides what is found."""
        digest = xxhash.xxh3_64(str(self.ngram).encode())
        for name, grams in zip(self.names, self.grams, strict=True):
            digest.update(name.encode("utf-8", "replace"))
            digest.update(grams.tobytes())
        return digest.hexdigest()

    def find(self, hashes: np.ndarray) -> Found | None:
        """Of a document's word hashes, uint64 [words]; None when it has nothing of any item."""
        fractions: dict[int, float] = {}
        for length, (table, owners) in self._short.items():
            for place in table.find(ngram_hashes(hashes, length)):
                fractions.update((number, 1.0) for number in owners[place])
        grams = ngram_hashes(hashes, self.ngram)
        found = self._long.find(grams)
        if len(found):
            distinct = np.unique(found)
            owners = np.concatenate([self._owners[self._starts[place] : self._starts[place + 1]] for place in distinct])
            numbers, counts = np.unique(owners, return_counts=True)
            # A quotient of integers: 4 of 5 is the same number as the 0.8 that was asked for.
            fractions.update(zip(numbers.tolist(), (counts / self.distinct[numbers]).tolist(), strict=True))
        if not fractions:
            return None
        if len(grams):
            share = len(found) / len(grams)
        else:  # a document shorter than an n-gram is one: found when it is a short item, no more and no less
            share = float(any(self.lengths.get(number) == len(hashes) for number in fractions))
        hits = sorted((Hit(number, fraction) for number, fraction in fractions.items()), key=_rank)
        return Found(hits, share)

    def words_found(self, hashes: np.ndarray, number: int) -> list[tuple[int, int]]:
        """Where a document has n-grams of an item: ranges [start, end) of its words, joined where they overlap."""
        length = self.lengths.get(number, self.ngram)
        places = np.flatnonzero(np.isin(ngram_hashes(hashes, length), self.grams[number]))
        ranges: list[tuple[int, int]] = []
        for place in places.tolist():
            if ranges and place <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], place + length)
            else:
                ranges.append((place, place + length))
        return ranges


def _rank(hit: Hit) -> tuple[float, int]:
    return -hit.fraction, hit.number


_indices: dict[str, Index] = {}


def load_index(config: ItemsConfig) -> Index:
    """Built once per process and set of items."""
    key = config.model_dump_json(include={"paths", "text_keys", "ngram", "min_words"})
    if key not in _indices:
        _indices[key] = Index(read_items(config.paths, config.text_keys), config)
    return _indices[key]
