"""log10 probabilities of lines under an n-gram model: KenLM for its binary files, NumPy for ARPA files.

Which of the two scores depends on the file alone, so that a document has the same perplexity on every worker. KenLM's
package builds from source and reads what `build_binary` wrote, shared between processes; an ARPA file needs nothing
but NumPy, at some 20 bytes an n-gram in each process.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from data_beam.io.files import open_file
from data_beam.ngram.prepare import BOS, EOS, UNK
from data_beam.text.words import ngram_hashes, word_hashes
from maxllm.config.errors import UserError

LINES_READ = 200_000  # of an ARPA file at a time
NO_UNKNOWN = -100.0  # log10 of an unknown word where a model has no <unk>; KenLM's


class Scorer(Protocol):
    def score(self, lines: Sequence[list[str]]) -> float:
        """log10 of the probability of all lines, each with its </s> after <s>."""


class KenlmScorer:
    def __init__(self, path: str) -> None:
        try:
            import kenlm
        except ImportError:
            raise UserError(
                f"perplexity.models: {path} is not an ARPA file, and KenLM, which reads its own binary files, is not "
                "installed; install maxllm[kenlm] (it builds with cmake and a C++ compiler), or give the ARPA file"
            ) from None
        try:
            self._model: Any = kenlm.Model(path)
        except (OSError, RuntimeError) as error:
            raise UserError(f"perplexity.models: KenLM cannot read {path} ({error})") from None

    def score(self, lines: Sequence[list[str]]) -> float:
        return sum(self._model.score(" ".join(words)) for words in lines)


class ArpaScorer:
    """N-grams as sorted 64-bit hashes: like KenLM's own probing table it does not look at the words again.

    p(w | c) is that of the longest n-gram known, with the back-offs of the longer contexts that are known.
    """

    def __init__(self, path: str) -> None:
        self._hashes: list[np.ndarray] = []  # by order, sorted uint64 [ngrams]
        self._values: list[np.ndarray] = []  # by order, float32 [ngrams, 2]: log10 probability and back-off
        for hashes, values in _read_arpa(path):
            if self._hashes and not len(hashes):
                break  # of this order and all above it there are none
            in_order = np.argsort(hashes, kind="stable")
            self._hashes.append(hashes[in_order])
            self._values.append(values[in_order])
        self._special = {word: word_hashes([word])[0] for word in (BOS, EOS, UNK)}
        place, found = self._find(1, np.array([self._special[UNK]]))
        if not found[0]:
            self._hashes[0] = np.insert(self._hashes[0], place[0], self._special[UNK])
            self._values[0] = np.insert(self._values[0], place[0], (NO_UNKNOWN, 0), 0)

    def score(self, lines: Sequence[list[str]]) -> float:
        scores = self.token_scores(lines)
        return float(scores.sum())

    def token_scores(self, lines: Sequence[list[str]]) -> np.ndarray:
        """float64 [words and one </s> a line]: log10 p of each in its context."""
        words = word_hashes([word for line in lines for word in (BOS, *line, EOS)])
        lengths = np.fromiter((len(line) + 2 for line in lines), np.int64, len(lines))
        # How many words of its line stand before each word.
        before = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        known = self._find(1, words)[1]
        words = np.where(known, words, self._special[UNK])
        scores = np.zeros(len(words))
        backoff = np.zeros(len(words))
        for order in range(1, len(self._hashes) + 1):
            last = slice(order - 1, None)  # where n-grams of this order end
            ngrams = words if order == 1 else ngram_hashes(words, order)
            place, found = self._find(order, ngrams)
            found &= before[last] >= order - 1  # within a line
            probability, own_backoff = self._values[order - 1][place].T
            # The back-off of a context that is one word shorter and ends one word earlier.
            scores[1:] += backoff[:-1]
            scores[last] = np.where(found, probability, scores[last])
            backoff[:] = 0
            backoff[last] = np.where(found, own_backoff, 0)
        return scores[before > 0]

    def _find(self, order: int, ngrams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place of each among the sorted hashes, whether it is there)"""
        hashes = self._hashes[order - 1]
        place = np.searchsorted(hashes, ngrams)
        inside = np.minimum(place, max(len(hashes) - 1, 0))
        return (inside, hashes[inside] == ngrams) if len(hashes) else (place, np.zeros(len(ngrams), bool))


def _read_arpa(path: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each order, from 1 on: hashes of its n-grams, and their log10 probabilities and back-offs."""
    try:
        with open_file(path) as stored:
            stream = gzip.GzipFile(fileobj=stored) if path.endswith(".gz") else stored
            yield from _sections(path, stream)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"perplexity.models: cannot read {path} ({error}); give a whole ARPA file") from None


def _sections(path: str, stream: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    lines = iter(stream.readline, b"")
    counts = []
    for line in lines:
        if line.startswith(b"ngram "):
            counts.append(int(line.partition(b"=")[2]))
        elif line.startswith(b"\\1-grams:"):
            break
    else:
        raise UserError(f"perplexity.models: {path} is not an ARPA file: it has no 1-grams")
    for order, count in enumerate(counts, 1):
        hashes, values = np.empty(count, np.uint64), np.empty((count, 2), np.float32)
        done = 0
        while done < count:
            rows = list(itertools.islice(lines, min(LINES_READ, count - done)))
            try:
                part = slice(done, done + len(rows))
                hashes[part], values[part] = _rows(rows, order)
            except ValueError as error:
                raise UserError(f"perplexity.models: {path} has broken {order}-grams ({error})") from None
            done += len(rows)
            if not rows:
                raise UserError(f"perplexity.models: {path} ends after {done} of its {count} {order}-grams")
        yield hashes, values
        for line in lines:
            if line.startswith((f"\\{order + 1}-grams:".encode(), b"\\end\\")):
                break


def _rows(rows: list[bytes], order: int) -> tuple[np.ndarray, np.ndarray]:
    fields = [row.decode().rstrip("\r\n").split("\t") for row in rows]
    words = " ".join([field[1] for field in fields]).split(" ")
    if len(words) != order * len(rows):
        raise ValueError(f"{len(words)} words in {len(rows)} n-grams")
    values = np.array([(float(field[0]), float(field[2]) if len(field) > 2 else 0.0) for field in fields], np.float32)
    hashes = word_hashes(words)
    return (hashes if order == 1 else ngram_hashes(hashes, order)[::order]), values
