"""JSON lines, plain, `.gz` or `.zst`: dolma's, datatrove's, C4's, or this program's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from data_beam.document import DeadLetter, Document, document_id
from data_beam.io.files import BrokenFile, chunks, iso, lines, matching, site
from data_beam.io.source import Read, Work, source_name, too_large
from maxllm.config.curate import InputConfig


def list_work(config: InputConfig) -> Iterator[Work]:
    """A file is a piece of work; with a limit all files are one, read in order: always the same sample."""
    files = matching(config.paths)
    if config.limit:
        yield Work(tuple(file.path for file in files), added=max(file.written for file in files))
    else:
        for file in files:
            yield Work((file.path,), added=file.written)


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    found = itertools.chain.from_iterable(_read_file(config, path, work.added) for path in work.names)
    yield from itertools.islice(found, config.limit)


def _read_file(config: InputConfig, path: str, added: str) -> Iterator[Read]:
    number = 0
    try:
        for number, line in enumerate(lines(chunks(path), config.max_bytes), 1):
            if isinstance(line, int):
                yield too_large(config, path, line, added, number)
            elif line.strip():
                yield _parse(config, path, number, line, added)
    except (BrokenFile, OSError) as error:
        yield DeadLetter(path, "read", f"after line {number}: {error}")


def _parse(config: InputConfig, path: str, number: int, line: bytes, added: str) -> Read:
    try:
        record = json.loads(line)
    except ValueError as error:
        return DeadLetter(f"{path}:{number}", "read", f"not JSON: {error}"[:300])
    return from_record(config, path, number, record, added)


def from_record(config: InputConfig, path: str, number: int, record: Any, added: str) -> Read:
    """A record's document. Its own `id` becomes `metadata.original_id`: ids from elsewhere may repeat, ours do not."""
    text = record.get(config.text_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        keys = sorted(record)[:20] if isinstance(record, dict) else type(record).__name__
        return DeadLetter(f"{path}:{number}", "read", f"no text under the key {config.text_key!r}; it has {keys}")
    known = {config.text_key, "id", "source", "added", "created", "metadata"}
    metadata = {key: value for key, value in record.items() if key not in known}
    metadata.update(_metadata(record.get("metadata")))
    if record.get("id") is not None:
        metadata.setdefault("original_id", str(record["id"]))
    metadata.setdefault("path", path)
    metadata.setdefault("content_type", "text")
    if (group := site(metadata.get("url"))) is not None:
        metadata.setdefault("group", group)
    return Document(
        id=document_id(source_name(config), path, number),
        text=text.encode("utf-8", "replace").decode("utf-8"),  # JSON may smuggle in lone surrogates
        source=config.name or record.get("source") or config.format,
        added=_time(record.get("added")) or added,
        created=_time(record.get("created")),
        metadata=metadata,
    )


def _time(value: Any) -> str | None:
    """Times are compared as text: ISO 8601 as it is, seconds since 1970 made such."""
    if isinstance(value, int | float) and 0 < value < 1e11:
        return iso(value)
    return value if isinstance(value, str) and value else None


def _metadata(value: Any) -> dict[str, Any]:
    """An object, or the JSON text of one, as Parquet files carry it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {"metadata": value}
    return value if isinstance(value, dict) else {}
