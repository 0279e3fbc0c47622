"""Parquet files with a text column; every other column becomes metadata."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow.parquet

from data_beam.document import DeadLetter, Document
from data_beam.io.files import open_file
from data_beam.io.jsonl import from_record, list_work
from data_beam.io.source import Read, Work, too_large
from maxllm.config.curate import InputConfig

__all__ = ["list_work", "read"]
BATCH_ROWS = 256


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    found = itertools.chain.from_iterable(_read_file(config, path, work.added) for path in work.names)
    yield from itertools.islice(found, config.limit)


def _read_file(config: InputConfig, path: str, added: str) -> Iterator[Read]:
    number = 0
    try:
        with open_file(path) as stream, pyarrow.parquet.ParquetFile(stream) as table:
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    read = from_record(config, path, number, _plain(record), added)
                    if isinstance(read, Document) and len(read.text) > config.max_bytes:
                        read = too_large(config, path, len(read.text), added, number)
                    yield read
    except (pyarrow.ArrowException, OSError) as error:
        yield DeadLetter(path, "read", f"after row {number}: {error}"[:500])


def _plain(value):
    """JSON's types only: times become ISO 8601, bytes become text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float | bool | None) else str(value)
