"""Curated documents as they are, ids and all: this program's own output, or any in dolma's form."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow

from data_beam.document import DeadLetter, Document, document_id
from data_beam.io import clean
from data_beam.io.files import BrokenFile, chunks, lines
from data_beam.io.jsonl import MARK
from data_beam.io.parquet import rows

MAX_LINE = 1 << 28  # bytes
BATCH_CHARACTERS = 1 << 20


def read_batches(path: str) -> Iterator[list[Document] | DeadLetter]:
    """Lists of documents of about a megabyte; a dead letter for each record that is none."""
    batch: list[Document] = []
    size = 0
    for item in read_documents(path):
        if isinstance(item, DeadLetter):
            yield item
            continue
        batch.append(item)
        size += len(item.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_documents(path: str) -> Iterator[Document | DeadLetter]:
    """JSON lines (plain, `.gz`, `.zst`) or Parquet. What cannot be read is a dead letter, and the rest is read."""
    number = 0
    try:
        for number, record in enumerate(rows(path) if path.endswith(".parquet") else _json_lines(path), 1):
            yield _document(path, number, record)
    except (BrokenFile, OSError, pyarrow.ArrowException, ValueError, OverflowError) as error:
        yield DeadLetter(path, "tokenize", f"after record {number}: {error}"[:500])


def _json_lines(path: str) -> Iterator[object]:
    for number, line in enumerate(lines(chunks(path), MAX_LINE), 1):
        if isinstance(line, int):
            yield None
            continue
        if number == 1:
            line = line.removeprefix(MARK)
        if line.strip():
            try:
                yield json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                yield None


def _document(path: str, number: int, record: object) -> Document | DeadLetter:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return DeadLetter(f"{path}:{number}", "tokenize", "not a JSON document with a text")
    metadata = record.get("metadata")
    try:
        if isinstance(metadata, str):  # as Parquet files carry it
            metadata = json.loads(metadata)
        metadata = clean.typed(clean.plain(metadata)) if isinstance(metadata, dict) else {}
    except (ValueError, RecursionError) as error:
        return DeadLetter(f"{path}:{number}", "tokenize", f"its metadata cannot be read: {error}"[:300])
    source, created = record.get("source"), record.get("created")
    source = clean.text(source) if isinstance(source, str) else ""
    id = record.get("id")
    return Document(
        id=document_id(source, path, number) if id is None else clean.text(str(id)),
        text=clean.text(record["text"]),
        source=source,
        added=clean.text(str(record.get("added") or "")),
        created=clean.text(created) if isinstance(created, str) and created else None,
        metadata=metadata,
    )
