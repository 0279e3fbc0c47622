"""Curated documents as they are, ids and all: this program's own output, or any in dolma's form."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet

from data_beam.document import DeadLetter, Document, document_id
from data_beam.io.files import BrokenFile, chunks, lines, open_file
from maxllm.tokenizer import without_surrogates

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
        for number, record in enumerate(_parquet(path) if path.endswith(".parquet") else _json_lines(path), 1):
            yield _document(path, number, record)
    except (BrokenFile, OSError, pyarrow.ArrowException) as error:
        yield DeadLetter(path, "tokenize", f"after record {number}: {error}"[:500])


def _json_lines(path: str) -> Iterator[object]:
    for line in lines(chunks(path), MAX_LINE):
        if isinstance(line, int):
            yield None
        elif line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield None


def _parquet(path: str) -> Iterator[object]:
    with open_file(path) as stream, pyarrow.parquet.ParquetFile(stream) as table:
        for batch in table.iter_batches(batch_size=256):
            for record in batch.to_pylist():
                if isinstance(record.get("metadata"), str):
                    record["metadata"] = json.loads(record["metadata"])
                yield record


def _document(path: str, number: int, record: object) -> Document | DeadLetter:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return DeadLetter(f"{path}:{number}", "tokenize", "not a JSON document with a text")
    if record.get("id") is None:
        record["id"] = document_id(str(record.get("source", "")), path, number)
    for name in ("id", "text", "source"):
        if name in record:
            record[name] = without_surrogates(str(record[name]))
    return Document.from_json(record)
