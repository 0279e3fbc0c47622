"""Documents as `maxllm curate` writes them, ids and all: to decide again, or to go on from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.io.documents import read_documents
from data_beam.io.jsonl import list_work
from data_beam.io.source import Read, Work
from maxllm.config.curate import InputConfig

__all__ = ["list_work", "read"]


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    found = itertools.chain.from_iterable(read_documents(path) for path in work.names)
    for item in itertools.islice(found, config.limit):
        if isinstance(item, DeadLetter):
            yield replace(item, stage="read")
            continue
        document = replace(item, source=config.name) if config.name else item
        size = len(document.text.encode("utf-8", "replace"))
        yield Rejected(_without_text(document), Drop("read.max_bytes", size)) if size > config.max_bytes else document


def _without_text(document: Document) -> Document:
    return replace(document, text="")
