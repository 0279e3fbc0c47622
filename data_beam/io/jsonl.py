"""JSON lines, plain, `.gz` or `.zst`: dolma's, datatrove's, C4's, or this program's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from data_beam.document import DeadLetter, Document, document_id
from data_beam.io import clean
from data_beam.io.files import BrokenFile, chunks, lines, matching, site
from data_beam.io.source import Read, Work, limited, source_name, too_large
from maxllm.config.curate import InputConfig

KNOWN = frozenset(("id", "source", "added", "metadata"))
MARK = b"\xef\xbb\xbf"  # UTF-8's byte order mark


def list_work(config: InputConfig) -> Iterator[Work]:
    """A file is a piece of work; with a limit all files are one, read in order: always the same sample."""
    files = matching(config.paths)
    if config.limit:
        yield Work(tuple(file.path for file in files), times=tuple(file.written for file in files))
    else:
        for file in files:
            yield Work((file.path,), times=(file.written,))


def read(config: InputConfig, work: Work) -> Iterator[Read]:
    times = work.times or itertools.repeat(work.added)
    files = zip(work.names, times, strict=False)
    found = itertools.chain.from_iterable(_read_file(config, path, added) for path, added in files)
    yield from limited(found, config.limit)


def _read_file(config: InputConfig, path: str, added: str) -> Iterator[Read]:
    number = 0
    try:
        for number, line in enumerate(lines(chunks(path), config.max_bytes), 1):
            if isinstance(line, int):
                yield too_large(config, path, line, added, number)
            else:
                if number == 1:
                    line = line.removeprefix(MARK)
                if line.strip():
                    yield _parse(config, path, number, line, added)
    except (BrokenFile, OSError) as error:
        yield DeadLetter(path, "read", f"after line {number}: {error}")


def _parse(config: InputConfig, path: str, number: int, line: bytes, added: str) -> Read:
    try:
        # As UTF-8 and nothing else: json.loads would guess UTF-16 for a line with NUL bytes.
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return DeadLetter(f"{path}:{number}", "read", f"not JSON: {error}"[:300])
    return from_record(config, path, number, record, added)


def from_record(config: InputConfig, path: str, number: int, record: Any, added: str) -> Read:
    """A record's document. Its own `id` becomes `metadata.original_id`: ids from elsewhere may repeat, ours do not."""
    text = record.get(config.text_key) if isinstance(record, dict) else None
    if isinstance(text, bytes):  # TFDS has text so
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        keys = [clean.text(str(key)) for key in record][:20] if isinstance(record, dict) else type(record).__name__
        error = f"no text under the key {config.text_key!r}; it has {keys}"
        return DeadLetter(f"{path}:{number}", "read", error[:500])
    if len(text) > config.max_bytes:
        return too_large(config, path, len(text), added, number)
    try:
        metadata = _metadata(config, record)
    except clean.TooDeep as error:
        return DeadLetter(f"{path}:{number}", "read", str(error))
    if record.get("id") is not None:
        metadata.setdefault("original_id", str(clean.plain(record["id"])))
    metadata.setdefault("path", clean.text(path))
    metadata.setdefault("content_type", "text")
    if (group := site(metadata.get("url"))) is not None:
        metadata.setdefault("group", group)
    source = record.get("source")
    created = [time for key in clean.CREATED_KEYS if (time := clean.time(record.get(key) or metadata.get(key)))]
    return Document(
        id=document_id(source_name(config), path, number),
        text=clean.text(text),
        source=config.name or (clean.text(source) if isinstance(source, str) and source else config.format),
        added=clean.time(record.get("added")) or added,
        created=created[0] if created else None,
        metadata=metadata,
    )


def _metadata(config: InputConfig, record: dict[str, Any]) -> dict[str, Any]:
    """All other keys, and those of `metadata`: an object, or the JSON text of one, as Parquet files carry it."""
    metadata = {key: clean.plain(value) for key, value in record.items() if key not in KNOWN and key != config.text_key}
    if clean.time(metadata.get("created")):
        del metadata["created"]  # it is Document.created
    own = record.get("metadata")
    if isinstance(own, str):
        try:
            own = json.loads(own)
        except (ValueError, RecursionError):
            own = {"metadata": own}
    metadata.update(clean.plain(own) if isinstance(own, dict) else {})
    return clean.typed({clean.text(str(key)): value for key, value in metadata.items()})
