"""Documents in files of bounded size: what one phase of a run hands to the next, and what the run leaves behind."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from typing import IO, Any

import apache_beam as beam
import pyarrow
import pyarrow.parquet
import zstandard
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from data_beam.document import DeadLetter, Document, Rejected

# Text of one file before compression: few enough files for 10 TB, small enough that its verdicts fit in memory.
PART_BYTES = 128 << 20
BETWEEN = "jsonl.zst"  # the format of what one phase leaves to the next, of rejects and of dead letters
ROWS = 512  # of a Parquet row group
# dolma and datatrove read metadata as a JSON string: a struct would have a different type in every file.
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "text", "source", "added", "created", "metadata")])


def to_record(outcome: Document | Rejected | DeadLetter) -> dict[str, Any]:
    """A rejected document is written as the document, with `drop_reason` and `drop_value` in its metadata."""
    if isinstance(outcome, DeadLetter):
        return {"where": outcome.where, "stage": outcome.stage, "error": outcome.error}
    if isinstance(outcome, Rejected):
        reason = {"drop_reason": outcome.drop.reason, "drop_value": outcome.drop.value}
        return outcome.document.with_text(outcome.document.text, **reason).to_json()
    return outcome.to_json()


def to_line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


class _Lines:
    def __init__(self, stream: IO[bytes], format: str) -> None:
        self.stream = stream
        self.lines: Any = stream
        if format == "jsonl.zst":
            self.lines = zstandard.ZstdCompressor(level=3).stream_writer(stream, closefd=False)
        elif format == "jsonl.gz":
            self.lines = gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=6, mtime=0)

    def write(self, outcome: Document | Rejected | DeadLetter) -> int:
        line = to_line(to_record(outcome))
        self.lines.write(line)
        return len(line)

    def close(self) -> None:
        if self.lines is not self.stream:
            self.lines.close()
        self.stream.close()


class _Rows:
    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.table = pyarrow.parquet.ParquetWriter(stream, SCHEMA, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def write(self, outcome: Document) -> int:
        record = to_record(outcome)
        self.rows.append({**record, "metadata": json.dumps(record["metadata"], ensure_ascii=False, default=str)})
        if len(self.rows) >= ROWS:
            self._flush()
        return len(outcome.text)

    def close(self) -> None:
        self._flush()
        self.table.close()
        self.stream.close()

    def _flush(self) -> None:
        if self.rows:
            self.table.write_table(pyarrow.Table.from_pylist(self.rows, SCHEMA))
            self.rows = []


class WriteParts(beam.DoFn):
    """Outcomes into FOLDER/<random>.FORMAT; yields (path, how many) of each file once it is whole. No shuffle.

    A bundle writes files of its own. One that is tried again leaves a file behind that nobody was told of, and that
    goes with the staging folder.
    """

    def __init__(self, folder: str, format: str) -> None:
        self.folder, self.format = folder, format
        self.writer: _Lines | _Rows | None = None

    def start_bundle(self) -> None:
        self.writer = None  # what a failed bundle left open is not this one's

    def process(self, outcome: Document | Rejected | DeadLetter) -> Iterator[tuple[str, int]]:
        if self.writer is None:
            self.path = FileSystems.join(self.folder, f"{uuid.uuid4().hex}.{self.format}")
            stream = FileSystems.create(self.path, compression_type=CompressionTypes.UNCOMPRESSED)
            self.writer = _Rows(stream) if self.format == "parquet" else _Lines(stream, self.format)
            self.size = self.count = 0
        self.size += self.writer.write(outcome)
        self.count += 1
        if self.size >= PART_BYTES:
            yield self._close()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self.writer is not None:
            window = GlobalWindow()
            yield WindowedValue(self._close(), window.max_timestamp(), [window])

    def _close(self) -> tuple[str, int]:
        assert self.writer is not None
        self.writer.close()
        self.writer = None
        return self.path, self.count
