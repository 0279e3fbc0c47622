"""Texts with labels as rows: JSON lines, read whole and encoded when a run starts, then packed like all other tokens.

A source's path is a file of JSON lines (one line in twenty, chosen by its hash, is held out), or a folder with
`train.jsonl` and perhaps `held_out.jsonl`; each may end with `.gz` or `.zst`. A line is, by `objective.name`:

    classification  {"text": ..., "label": ...}, or with "pair", a second text; or {"words": [...], "labels": [...]},
                    null where a word has none
    rerank          {"query": ..., "text": ..., "label": 0 or 1}, or {"query": ..., "positive": ..., "negative": ...}
    contrastive     {"query": ..., "positive": ...}
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard

from data_beam.packing import best_fit
from maxllm.batch import Batch, texts_per_row
from maxllm.config.errors import UserError
from maxllm.config.model import ModelConfig
from maxllm.data.special_ids import find
from maxllm.tokenizer import Tokenizer

NO_LABEL = -1
HELD_OUT = 20  # one line in so many, of a file that is not divided
BATCH = 4096  # lines encoded at a time
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstandard.open}


class Text(NamedTuple):
    """What the model reads as one segment: int32 `[n]` each."""

    tokens: np.ndarray
    types: np.ndarray
    labels: np.ndarray  # NO_LABEL where there is none
    line: int  # of its file, from 1


class LabelledRows:
    """All rows of a source in one split, addressed as those of a PackedSource are."""

    def __init__(self, name: str, texts: Sequence[Text], length: int, *, together: int = 1) -> None:
        """Whole texts only; `together`: how many in succession have to lie beside each other."""
        self._name, self._texts = name, texts
        sizes = np.array([len(text.tokens) for text in texts], np.int64).reshape(-1, together).sum(axis=1)
        if together > 1:  # no more in a row than `texts_per_row` says
            sizes = np.maximum(sizes, -(-length * together // texts_per_row(length)))
        falling = np.argsort(-sizes, kind="stable")
        rows = best_fit(sizes[falling], length)
        order = falling[np.argsort(rows, kind="stable")]
        self._members = (order[:, None] * together + np.arange(together)).reshape(-1)  # texts, row after row
        self._ends = np.cumsum(np.bincount(rows)) * together

    def __len__(self) -> int:
        return len(self._ends)

    def fill(
        self, batch: Batch, places: Sequence[int], indices: Sequence[int], cut: Sequence[int] | None = None
    ) -> None:
        """Writes row `indices[i]` of this source into row `places[i]` of the batch; texts are never cut."""
        for place, index in zip(places, indices, strict=True):
            begin = 0
            for segment, text in enumerate(self._row(index), 1):
                at = slice(begin, begin + len(text.tokens))
                batch.tokens[place, at] = text.tokens
                batch.segment_ids[place, at] = segment
                batch.positions[place, at] = np.arange(len(text.tokens))
                batch.weights[place, at] = 1
                batch.labels[place, at] = text.labels  # type: ignore[index]
                if batch.types is not None:
                    batch.types[place, at] = text.types
                begin = at.stop

    def document_ids(self, index: int, part: int = 0, parts: int = 1) -> list[str]:
        return list(dict.fromkeys(f"{self._name}, line {text.line}" for text in self._row(index)))

    def _row(self, index: int) -> list[Text]:
        begin = self._ends[index - 1] if index else 0
        return [self._texts[member] for member in self._members[begin : self._ends[index]]]


class Labelled:
    """How files with labels become rows of a model's tokens. Errors name the line, and say nothing of its text."""

    def __init__(self, objective: str, model: ModelConfig, tokenizer: Tokenizer) -> None:
        assert model.labels
        self._objective, self._labels, self._tokenizer = objective, model.labels, tokenizer
        self._ids, self._model = find(tokenizer, model.vocab_size, objective, ()), model

    def open(self, path: str, split: str, length: int) -> LabelledRows:
        """The rows of `length` tokens of a source's split. Raises UserError for files absent, damaged or of another
        kind. A text that is longer is cut at its end, of a pair the longer one first."""
        texts: list[Text] = []
        read = _lines(path, split)
        limit = length // 2 if self._objective == "contrastive" else length
        while batch := [line for _, line in zip(range(BATCH), read, strict=False)]:
            texts += self._encoded(batch, limit)
        name = Path(path).name
        return LabelledRows(name, texts, length, together=2 if self._objective == "contrastive" else 1)

    def prepared(self, batch: Batch) -> Batch:
        """An empty batch with room for what labelled rows have more."""
        return with_labels(batch, self._model, NO_LABEL)

    def _encoded(self, lines: list[_Line], limit: int) -> list[Text]:
        segments = [(parts, label, line) for line in lines for parts, label in self._segments(line)]
        if self._labels.kind == "token":
            return [self._words(words, labels, line, limit) for words, labels, line in segments]
        flat = self._tokenizer.encode_batch([part for parts, _, _ in segments for part in parts])
        encoded = iter(flat)
        return [self._framed([next(encoded) for _ in parts], label, line, limit) for parts, label, line in segments]

    def _segments(self, line: _Line) -> list[tuple[list[str], Any]]:
        """The texts of a line, each as its parts and its label."""
        if self._objective == "contrastive":
            return [([line.text("query")], NO_LABEL), ([line.text("positive")], NO_LABEL)]
        if self._objective == "rerank" and "positive" in line.values:
            query = line.text("query")
            return [([query, line.text("positive")], 1), ([query, line.text("negative")], 0)]
        if self._objective == "rerank":
            label = line.values.get("label")
            if label not in (0, 1):
                raise line.refused('"label" is neither 0 nor 1')
            return [([line.text("query"), line.text("text")], int(label))]
        if self._labels.kind == "token":
            words, labels = line.values.get("words"), line.values.get("labels")
            whole = isinstance(words, list) and isinstance(labels, list) and len(words) == len(labels) > 0
            if not whole or not all(isinstance(word, str) for word in words):
                raise line.refused('"words" and "labels" have to be lists of one length, of strings and of labels')
            return [(words, [NO_LABEL if label is None else self._number(label, line) for label in labels])]
        pair = [line.text("pair")] if line.values.get("pair") is not None else []
        return [([line.text("text"), *pair], self._number(line.values.get("label"), line))]

    def _number(self, label: Any, line: _Line) -> int:
        names, count = self._labels.names, self._labels.count
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, int) and 0 <= label < count:
            return int(label)
        known = ", ".join(names) if names else f"numbers from 0 to {count - 1}"
        raise line.refused(
            f"label {str(label)[:40]!r} is none of model.labels ({known}); name all of them: model.labels.names=[...]"
        )

    def _framed(self, parts: list[list[int]], label: int, line: _Line, limit: int) -> Text:
        begin = [] if self._ids.begin is None else [self._ids.begin]
        room = limit - len(begin) - len(parts)
        if len(parts) == 2:
            second = max(room // 2, room - len(parts[0]))
            parts[1] = parts[1][:second]
        parts[0] = parts[0][: room - sum(map(len, parts[1:]))]
        tokens = [*begin, *parts[0], self._ids.end]
        types = [0] * len(tokens)
        for part in parts[1:]:
            tokens += [*part, self._ids.end]
            types += [1] * (len(part) + 1)
        labels = np.full(len(tokens), NO_LABEL, np.int32)
        labels[0] = label
        return Text(np.array(tokens, np.int32), np.array(types, np.int32), labels, line.number)

    def _words(self, words: list[str], labels: list[int], line: _Line, limit: int) -> Text:
        """A word's label stands at its first token."""
        encoded = self._tokenizer.encode_words(words)
        own = [[label] + [NO_LABEL] * (len(ids) - 1) for ids, label in zip(encoded, labels, strict=True) if ids]
        begin = [] if self._ids.begin is None else [self._ids.begin]
        tokens = [*begin, *(token for ids in encoded for token in ids)][: limit - 1] + [self._ids.end]
        found = [*[NO_LABEL] * len(begin), *(label for each in own for label in each)][: limit - 1] + [NO_LABEL]
        types = np.zeros(len(tokens), np.int32)
        return Text(np.array(tokens, np.int32), types, np.array(found, np.int32), line.number)


class _Line(NamedTuple):
    place: str
    number: int
    values: dict[str, Any]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            known = ", ".join(self.values) or "nothing"
            raise self.refused(f'there is no text in "{key}" (the line has {known})')
        return value

    def refused(self, why: str) -> UserError:
        return UserError(
            f"{self.place}:{self.number}: {why}; maxllm/data/labelled.py and docs/models/objectives.md "
            "say what a line holds"
        )


def with_labels(batch: Batch, model: ModelConfig, label: int) -> Batch:
    """The same label everywhere, and token types 0 where the model has any."""
    typed = model.architecture == "encoder" and model.encoder.type_vocab_size > 1
    types = np.zeros_like(batch.tokens) if typed else None
    return batch._replace(labels=np.full_like(batch.tokens, label), types=types)


def files_of(path: str, split: str) -> list[Path]:
    """None, if nothing is there. A folder without held-out texts is one."""
    if not Path(path).is_dir():
        return [Path(path)] if Path(path).is_file() else []
    return [
        Path(path) / f"{split}.jsonl{end}" for end in ("", *_OPENERS) if (Path(path) / f"{split}.jsonl{end}").is_file()
    ]


def fingerprint(path: str) -> str:
    """SHA-256 of the files that are learned from."""
    digest = hashlib.sha256()
    for file in files_of(path, "train"):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _lines(path: str, split: str) -> Iterator[_Line]:
    for file in files_of(path, split):
        try:
            with _OPENERS.get(file.suffix, open)(file, "rt", encoding="utf-8") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip() and (Path(path).is_dir() or _is_held_out(line) == (split == "held_out")):
                        yield _Line(str(file), number, _parsed(line, file, number))
        except (OSError, EOFError, zlib.error, zstandard.ZstdError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read to its end ({error}); give a whole file of JSON lines") from error


def _is_held_out(line: str) -> bool:
    return int.from_bytes(hashlib.sha256(line.strip().encode()).digest()[:4], "big") % HELD_OUT == 0


def _parsed(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{file}:{number}: not a JSON object; the file must hold one a line")
    return values
