"""What a reader of one format is, and the table of them.

A format is a module with two functions. `list_work(config)` says what there is to read, as small pieces of work that
travel to the workers; `read(config, work)` yields what is in one piece. Neither assumes that the two run in one place.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

from data_beam.document import DeadLetter, Document, Drop, Rejected, document_id
from data_beam.io import clean
from maxllm.config.curate import InputConfig

FORMATS = {
    "documents": "data_beam.io.curated",
    "jsonl": "data_beam.io.jsonl",
    "parquet": "data_beam.io.parquet",
    "warc": "data_beam.io.warc",
    "html": "data_beam.io.html",
    "hf": "data_beam.io.hf",
    "tfds": "data_beam.io.tfds",
    "python-docs": "data_beam.io.python_docs",
    "python-source": "data_beam.io.python_source",
}

Read: TypeAlias = Document | Rejected | DeadLetter


@dataclass(frozen=True, slots=True)
class Work:
    """One piece: names of files (or modules), and for a format with record numbers, which of them."""

    names: tuple[str, ...]
    start: int = 0
    stop: int = 0
    added: str = ""  # when the input was written, ISO 8601 UTC
    times: tuple[str, ...] = ()  # the same of each of `names`, where one piece has several files


def format_module(config: InputConfig) -> ModuleType:
    return importlib.import_module(FORMATS[config.format])


def source_name(config: InputConfig) -> str:
    return config.name or config.format


def limited(items: Iterator[Read], limit: int | None) -> Iterator[Read]:
    """At most `limit` documents, dropped ones counted; dead letters on the way come besides."""
    taken = 0
    for item in items:
        yield item
        taken += not isinstance(item, DeadLetter)
        if taken == limit:
            return


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    """What is in one piece of work. A reader that fails ends its piece with a dead letter; it never raises."""
    seen = 0
    try:
        for item in format_module(config).read(config, work):
            seen += 1
            yield item
    except Exception as error:
        where = work.names[0] if len(work.names) == 1 else f"{work.names[0]} … {work.names[-1]}"
        yield DeadLetter(where, "read", f"after {seen} records: {type(error).__name__}: {error}"[:500])


def too_large(config: InputConfig, location: str, size: int, added: str, index: int = 0) -> Rejected:
    source = source_name(config)
    id = document_id(source, location, index)
    document = Document(id, "", source, added, metadata={"path": clean.text(location)})
    return Rejected(document, Drop("read.max_bytes", size))
