"""The outcomes of a run in SQLite, to be filtered, searched and paged through.

Built once from the part files into a file beside no one's data (a temporary folder) and thrown away at the end. Up to
`limit` documents: the ones whose ids hash lowest within each reason, so that rare reasons are all there.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

import xxhash
from apache_beam.io.filesystems import FileSystems

from data_beam.document import DeadLetter, Document
from data_beam.io.documents import read_documents
from data_beam.io.files import chunks, lines
from data_beam.output import files_below
from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
FOLDERS = ("documents", "rejected", "dead")
# Reasons whose value names the document that stays.
DUPLICATES = ("exact_dedup", "fuzzy_dedup", "semantic_dedup")
MAX_LINE = 1 << 28
SCHEMA = """
CREATE TABLE outcomes (
  number INTEGER PRIMARY KEY, folder TEXT, id TEXT, source TEXT, language TEXT, stage TEXT, reason TEXT, value TEXT,
  name TEXT, characters INTEGER, head TEXT, kept_id TEXT, body BLOB);
CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='unicode61');
"""
INDICES = """
CREATE INDEX by_id ON outcomes (id);
CREATE INDEX by_kept ON outcomes (kept_id);
CREATE INDEX by_reason ON outcomes (folder, reason);
"""
FILTERS = ("folder", "stage", "reason", "source", "language")
HEAD = 160  # characters shown in lists


class Store:
    def __init__(self, path: str) -> None:
        """`path`: of the SQLite file, or `:memory:`."""
        self.connection = sqlite3.connect(path, check_same_thread=False)
        self.connection.executescript(SCHEMA)
        self.seen = 0

    def fill(self, run: str, limit: int) -> None:
        """Reads OUT of a run. Raises UserError when there is none."""
        parts = {folder: files_below(FileSystems.join(run, folder)) for folder in FOLDERS}
        if not any(parts.values()):
            raise UserError(f"{run}: neither documents nor rejected are here; give the output folder of maxllm curate")
        least = self._least(parts, limit)
        for folder, paths in parts.items():
            for path in paths:
                for record in records(folder, path):
                    if _rank(record) <= least.get((folder, record["reason"]), 1 << 64):
                        self._add(record)
                logger.info("inspect: read %s, %s outcomes so far", path, f"{self.seen:,}")
        self.connection.executescript(INDICES)
        self.connection.commit()

    def _least(self, parts: dict[str, list[str]], limit: int) -> dict[tuple[str, str], int]:
        """The highest rank that fits, for each folder and reason; empty when all fits."""
        ranks: dict[tuple[str, str], list[int]] = {}
        for folder, paths in parts.items():
            for path in paths:
                for record in records(folder, path):
                    ranks.setdefault((folder, record["reason"]), []).append(_rank(record))
        left = limit
        least = {}
        for place, (key, found) in enumerate(sorted(ranks.items(), key=lambda item: len(item[1]))):
            share = left // (len(ranks) - place)
            if len(found) > share:
                least[key] = sorted(found)[share - 1] if share else -1
            left -= min(len(found), share)
        return least

    def _add(self, record: dict[str, Any]) -> None:
        self.seen += 1
        text = record["text"]
        body = zlib.compress(json.dumps({"text": text, "metadata": record["metadata"]}).encode())
        row = [record[name] for name in ("folder", "id", "source", "language", "stage", "reason", "value", "name")]
        head = " ".join(text[: 4 * HEAD].split())[:HEAD]
        self.connection.execute(
            "INSERT INTO outcomes VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            [self.seen, *row, len(text), head, record["kept_id"], body],
        )
        self.connection.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", [self.seen, text])

    def choices(self, filters: dict[str, str]) -> dict[str, list[tuple[str, int]]]:
        """For each filter its values and their counts, under the other filters."""
        found = {}
        for name in FILTERS:
            where, values = _where({key: value for key, value in filters.items() if key != name})
            found[name] = self.connection.execute(
                f"SELECT {name}, COUNT(*) FROM outcomes WHERE {where} GROUP BY {name} ORDER BY 2 DESC, 1 LIMIT 200",
                values,
            ).fetchall()
        return found

    def page(self, filters: dict[str, str], offset: int, count: int) -> dict[str, Any]:
        """`total`, and `rows` of what a list shows. `filters` may hold `query`: words, all of which occur."""
        where, values = _where(filters)
        total = self.connection.execute(f"SELECT COUNT(*) FROM outcomes WHERE {where}", values).fetchone()[0]
        columns = ("number", "folder", "id", "source", "language", "reason", "value", "name", "characters", "head")
        rows = self.connection.execute(
            f"SELECT {', '.join(columns)} FROM outcomes WHERE {where} ORDER BY number LIMIT ? OFFSET ?",
            [*values, count, offset],
        )
        return {"total": total, "rows": [dict(zip(columns, row, strict=True)) for row in rows]}

    def document(self, number: int) -> dict[str, Any] | None:
        """One outcome whole, with the document that stays for it (`kept`), and those that go for it (`copies`)."""
        found = self._whole("number = ?", number)
        if found is None:
            return None
        if found["kept_id"]:
            found["kept"] = self._whole("id = ? AND folder = 'documents'", found["kept_id"]) or self._whole(
                "id = ?", found["kept_id"]
            )
        found["copies"] = [
            {"number": number, "reason": reason, "name": name}
            for number, reason, name in self.connection.execute(
                "SELECT number, reason, name FROM outcomes WHERE kept_id = ? LIMIT 50", [found["id"]]
            )
        ]
        return found

    def _whole(self, where: str, value: Any) -> dict[str, Any] | None:
        columns = (
            "number",
            "folder",
            "id",
            "source",
            "language",
            "stage",
            "reason",
            "value",
            "name",
            "kept_id",
            "body",
        )
        row = self.connection.execute(f"SELECT {', '.join(columns)} FROM outcomes WHERE {where}", [value]).fetchone()
        if row is None:
            return None
        found = dict(zip(columns, row, strict=True))
        return {**found, **json.loads(zlib.decompress(found.pop("body")))}


def _where(filters: dict[str, str]) -> tuple[str, list[Any]]:
    parts, values = ["1"], []
    for name in FILTERS:
        if filters.get(name) is not None and filters.get(name) != "":
            parts.append(f"{name} = ?")
            values.append(filters[name])
    if words := (filters.get("query") or "").split():
        parts.append("number IN (SELECT rowid FROM texts WHERE texts MATCH ?)")
        # Quoted, so that nothing a user types is FTS5's syntax.
        values.append(" ".join('"' + word.replace('"', '""') + '"' for word in words))
    return " AND ".join(parts), values


def records(folder: str, path: str) -> Iterator[dict[str, Any]]:
    """Outcomes of one part file as rows. What cannot be read is shown as a dead letter of its own."""
    if folder == "dead":
        for line in lines(chunks(path), MAX_LINE):
            letter = json.loads(line)  # type: ignore[arg-type]
            yield _letter(letter["where"], letter["stage"], letter["error"])
        return
    for item in read_documents(path):
        yield _letter(item.where, item.stage, item.error) if isinstance(item, DeadLetter) else _row(folder, item)


def _letter(where: str, stage: str, error: str) -> dict[str, Any]:
    return {
        **{"folder": "dead", "id": where.split(" ", 1)[0], "source": "", "language": "", "stage": stage},
        **{"reason": f"failed in {stage}", "value": "", "name": where, "text": error, "metadata": {}, "kept_id": None},
    }


def _row(folder: str, document: Document) -> dict[str, Any]:
    metadata = dict(document.metadata)
    reason, value = str(metadata.pop("drop_reason", "")), metadata.pop("drop_value", None)
    stage = reason.partition(".")[0]
    kept_id = str(value).split(" ", 1)[0] if stage in DUPLICATES and value is not None else None
    language = metadata.get("language") or metadata.get("programming_language") or ""
    name = metadata.get("url") or metadata.get("path") or metadata.get("module") or document.id
    dates = {"added": document.added, "created": document.created}
    return {
        **{"folder": folder, "id": document.id, "source": document.source, "language": str(language), "stage": stage},
        **{"reason": reason, "value": "" if value is None else str(value), "name": str(name), "kept_id": kept_id},
        **{"text": document.text, "metadata": {**dates, **metadata}},
    }


def _rank(record: dict[str, Any]) -> int:
    return xxhash.xxh3_64_intdigest(record["id"].encode("utf-8", "surrogateescape"))
