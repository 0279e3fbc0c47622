"""Labelled texts from files."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from data_beam.io.files import BrokenFile, chunks
from data_beam.stages.files import expand
from maxllm.config.classify import LabelledFiles
from maxllm.config.errors import UserError

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
LONGEST_FIELD = 1 << 27  # of a CSV file, in characters; Python's own limit is 131,072


class Example(NamedTuple):
    text: str
    label: str


def read_examples(files: LabelledFiles, setting: str) -> Iterator[Example]:
    """Every text with its label, in the order of the files. Raises UserError, naming file and line; never a text."""
    for pattern in files.paths:
        for path in expand(pattern, f"{setting}.paths"):
            yield from _read_file(path, files, setting)


def batches(files: LabelledFiles, setting: str, size: int) -> Iterator[list[Example]]:
    examples = read_examples(files, setting)
    while batch := list(islice(examples, size)):
        yield batch


def _read_file(path: str, files: LabelledFiles, setting: str) -> Iterator[Example]:
    plain = path.removesuffix(".gz").removesuffix(".zst")
    extension = next((name for name in FORMATS if plain.endswith(name)), None)
    if extension is None:
        raise UserError(
            f"{setting}.paths: {path} is of no known kind; give {', '.join(FORMATS)}, or these as .gz or .zst"
        )
    try:
        lines = _text_lines(chunks(path))
        if extension == ".txt":
            records: Iterable[tuple[int, Any]] = (
                (number, {files.text_key: line.rstrip("\r\n")}) for number, line in enumerate(lines, 1)
            )
        elif extension in (".csv", ".tsv"):
            records = _csv(lines, "\t" if extension == ".tsv" else ",")
        else:
            records = _json_lines(lines, path, setting)
        for number, record in records:
            if (example := _example(record, files, f"{setting}: {path}:{number}")) is not None:
                yield example
    except (BrokenFile, OSError) as error:
        raise UserError(f"{setting}.paths: {path} cannot be read: {error}; give the path of a whole file") from None


def _json_lines(lines: Iterable[str], path: str, setting: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                raise UserError(
                    f"{setting}: {path}:{number} is not JSON; the file must hold an object a line"
                ) from None


def _csv(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(LONGEST_FIELD)
    yield from enumerate(csv.DictReader(lines, delimiter=delimiter), 2)


def _example(record: Any, files: LabelledFiles, where: str) -> Example | None:
    """None for a blank text."""
    keys = sorted(map(str, record))[:20] if isinstance(record, dict) else type(record).__name__
    text = record.get(files.text_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{where} has no text under {files.text_key!r}; it has {keys}: set text_key")
    label = files.label if files.label is not None else record.get(files.label_key)
    if label is None or label == "" or isinstance(label, dict | list):
        raise UserError(f"{where} has no label under {files.label_key!r}; it has {keys}: set label_key, or label")
    return (
        Example(text, (str(label).lower() if isinstance(label, bool) else str(label).strip())) if text.strip() else None
    )


def _text_lines(data: Iterable[bytes]) -> Iterator[str]:
    """Lines with their ends: CSV needs them, where a quoted field runs over several."""
    held = b""
    for number, chunk in enumerate(data):
        if not number:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
        *whole, held = (held + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") + "\n" for line in whole)
    if held:
        yield held.decode("utf-8", "replace")
