"""Where outcomes go: JSON lines or Parquet, written by Beam's file sink, which survives retried bundles."""

from __future__ import annotations

import json
from typing import Any

import apache_beam as beam
import pyarrow
from apache_beam.coders import BytesCoder
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from data_beam.document import DeadLetter, Document, Rejected

COMPRESSION = {
    "jsonl": CompressionTypes.UNCOMPRESSED,
    "jsonl.gz": CompressionTypes.GZIP,
    "jsonl.zst": CompressionTypes.ZSTD,
}
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


def to_line(outcome: Document | Rejected | DeadLetter) -> bytes:
    return json.dumps(to_record(outcome), ensure_ascii=False, default=str).encode("utf-8", "replace")


def to_row(document: Document) -> dict[str, Any]:
    record = to_record(document)
    return {**record, "metadata": json.dumps(record["metadata"], ensure_ascii=False, default=str)}


class WriteOutcomes(beam.PTransform):
    """Writes FOLDER/part-*.FORMAT and gives the paths written. No shuffle: a bundle writes its own file."""

    def __init__(self, folder: str, format: str) -> None:
        super().__init__()
        self.folder, self.format = folder, format

    def expand(self, outcomes: beam.PCollection) -> beam.PCollection:
        prefix = FileSystems.join(self.folder, "part")
        if self.format == "parquet":
            return (
                outcomes
                | "Rows" >> beam.Map(to_row)
                | beam.io.WriteToParquet(prefix, SCHEMA, file_name_suffix=".parquet", codec="zstd")
            )
        return (
            outcomes
            | "Lines" >> beam.Map(to_line)
            | beam.io.WriteToText(
                prefix,
                file_name_suffix=f".{self.format}",
                coder=BytesCoder(),
                compression_type=COMPRESSION[self.format],
            )
        )
