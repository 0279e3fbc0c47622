"""Parquet files with a text column; every other column becomes metadata."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet

from data_beam.document import DeadLetter
from data_beam.io.files import open_file
from data_beam.io.jsonl import from_record, list_work
from data_beam.io.source import Read, Work, limited
from maxllm.config.curate import InputConfig

__all__ = ["list_work", "read", "rows"]
# At once in memory. A few bytes of Parquet can stand for a long text in every row (a dictionary), so not many: such a
# file takes up to 30 times its longest text. One at a time would take six, and cost 0.2 ms a row.
BATCH_ROWS = 8


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    times = work.times or itertools.repeat(work.added)
    files = zip(work.names, times, strict=False)
    found = itertools.chain.from_iterable(_read_file(config, path, added) for path, added in files)
    yield from limited(found, config.limit)


def _read_file(config: InputConfig, path: str, added: str) -> Iterator[Read]:
    number = 0
    try:
        for number, record in enumerate(rows(path), 1):
            yield from_record(config, path, number, record, added)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # of pages; of values out of range
        yield DeadLetter(path, "read", f"after row {number}: {type(error).__name__}: {error}"[:500])


def rows(path: str) -> Iterator[dict[str, Any]]:
    """One after the other as Python's values. Raises ArrowException, OSError, ValueError, OverflowError."""
    with open_file(path) as stream, pyarrow.parquet.ParquetFile(stream) as table:
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            names, columns = batch.schema.names, batch.columns
            for row in range(batch.num_rows):
                yield {name: column[row].as_py() for name, column in zip(names, columns, strict=True)}
