"""Drops documents that contain evaluation items: at least a share of an item's word 13-grams, or a short item whole.

Brown et al. 2020 (arXiv 2005.14165, appendix C) compare by 13-grams of lower-cased words without punctuation, any one
of which counts; the share of 0.8 is the stricter reading of "contains", and spares pages that quote one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from data_beam.document import Document, Drop
from data_beam.stages.files import expand, read_lines
from data_beam.text.signals import signals_of
from data_beam.text.words import ngram_hashes, normalised_words, word_hashes
from maxllm.config.decontaminate import DecontaminationConfig
from maxllm.config.errors import UserError


class Item(NamedTuple):
    """An evaluation text; `name` says where it is from: file, line and key."""

    name: str
    text: str


class Match(NamedTuple):
    item: str
    fraction: float


class _Table:
    """Sorted 64-bit hashes with a bitmap before them, as nearly every hash asked for is absent."""

    def __init__(self, hashes: np.ndarray) -> None:
        self.hashes = hashes
        self._mask = np.uint64((1 << max(10, (16 * len(hashes)).bit_length())) - 1)
        self._bitmap = np.zeros(int(self._mask) + 1, bool)
        self._bitmap[hashes & self._mask] = True

    def find(self, asked: np.ndarray) -> np.ndarray:
        """Indices into `hashes` of the asked ones that are there, each once."""
        asked = asked[self._bitmap[asked & self._mask]]
        if not len(asked):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self.hashes, asked), len(self.hashes) - 1)
        return np.unique(places[self.hashes[places] == asked])


class Index:
    """All evaluation items, ready to be looked for. Small enough to hold per worker: 8 bytes an n-gram and index."""

    def __init__(self, items: Iterable[Item], config: DecontaminationConfig) -> None:
        self.ngram, self.threshold = config.ngram, config.threshold
        self.names: list[str] = []
        self.skipped = 0
        grams: list[np.ndarray] = []
        short: dict[int, dict[int, int]] = {}
        for item in items:
            words = normalised_words(item.text)
            if len(words) < min(config.min_words, config.ngram):
                self.skipped += 1
                continue
            number = len(self.names)
            self.names.append(item.name)
            hashes = word_hashes(words)
            if len(words) < self.ngram:
                whole = int(ngram_hashes(hashes, len(words))[0])
                short.setdefault(len(words), {}).setdefault(whole, number)
                grams.append(np.empty(0, np.uint64))
            else:
                grams.append(np.unique(ngram_hashes(hashes, self.ngram)))
        self._distinct = np.array([len(each) for each in grams], np.int64)
        owners = np.repeat(np.arange(len(grams)), self._distinct)
        flat = np.concatenate([np.empty(0, np.uint64), *grams])
        order = np.argsort(flat, kind="stable")
        unique, starts = np.unique(flat[order], return_index=True)
        self._owners, self._starts = owners[order], np.append(starts, len(flat))
        self._long = _Table(unique)
        self._short: list[tuple[int, _Table, list[int]]] = []
        for length, wholes in sorted(short.items()):
            hashes = np.array(sorted(wholes), np.uint64)
            self._short.append((length, _Table(hashes), [wholes[int(each)] for each in hashes]))

    def match(self, hashes: np.ndarray) -> Match | None:
        """The item found most completely, ties to the first, in a text of these word hashes, uint64 [words]."""
        for length, table, owners in self._short:
            found = table.find(ngram_hashes(hashes, length))
            if len(found):
                return Match(self.names[min(owners[place] for place in found)], 1.0)
        found = self._long.find(ngram_hashes(hashes, self.ngram))
        if not len(found):
            return None
        owners = np.concatenate([self._owners[self._starts[place] : self._starts[place + 1]] for place in found])
        candidates, hits = np.unique(owners, return_counts=True)
        # A quotient of integers: 4 of 5 is the same number as the 0.8 that was asked for.
        fractions = hits / self._distinct[candidates]
        best = int(np.argmax(fractions))
        if fractions[best] < self.threshold:
            return None
        return Match(self.names[candidates[best]], float(fractions[best]))


def read_items(paths: list[str], text_keys: list[str]) -> Iterator[Item]:
    """Items of JSON lines files, `.gz` or plain, one for each of the keys that a line has."""
    for path in (path for pattern in paths for path in expand(pattern, "decontamination.paths")):
        found = False
        seen: set[str] = set()
        for number, line in enumerate(read_lines(path, "decontamination.paths"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(
                    f"decontamination.paths: {path} line {number} is not JSON ({error}); one object a line."
                ) from error
            if not isinstance(record, dict):
                raise UserError(f"decontamination.paths: {path} line {number} is not an object; one object a line.")
            seen.update(record)
            for key in text_keys:
                if isinstance(text := record.get(key), str):
                    found = True
                    yield Item(f"{path.rsplit('/', 1)[-1]}:{number}:{key}", text)
        if not found:
            raise UserError(
                f"decontamination.text_keys: no line of {path} has any of {text_keys}; its keys are {sorted(seen)}."
            )


_indices: dict[str, Index] = {}


def load_index(config: DecontaminationConfig) -> Index:
    """Built once per process."""
    key = config.model_dump_json()
    if key not in _indices:
        _indices[key] = Index(read_items(config.paths, config.text_keys), config)
    return _indices[key]


class Decontaminate:
    """Drops a document that contains an evaluation item; the drop's value names the item and how much was found."""

    name = "decontamination"

    def __init__(self, config: DecontaminationConfig) -> None:
        self.index = load_index(config)

    def __call__(self, document: Document) -> Document | Drop:
        match = self.index.match(signals_of(document.text).normalised_hashes)
        if match is None:
            return document
        return Drop("decontamination.ngram_overlap", f"{match.item} ({match.fraction:.2f})")
