"""The outcomes of a run in SQLite, to be filtered, searched and paged through.

Built in one pass over the part files, in a file that is thrown away at the end; texts are in it, not in memory. Of
more than `limit` outcomes a sample is taken in which rare reasons are whole, and a second pass fetches the documents
that stayed for its duplicates.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import zlib
from typing import Any

from data_beam.inspect.read import Outcome, outcomes, parts, report_of
from data_beam.inspect.sample import Sample
from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE outcomes (number INTEGER PRIMARY KEY, folder TEXT, id TEXT, source TEXT, language TEXT, stage TEXT,
  reason TEXT, value TEXT, name TEXT, characters INTEGER, head TEXT, kept_id TEXT, rank INTEGER);
CREATE TABLE bodies (number INTEGER PRIMARY KEY, body BLOB);
CREATE VIRTUAL TABLE texts USING fts5(text, name, content='', tokenize='unicode61');
"""
INDICES = """
CREATE INDEX by_id ON outcomes (id);
CREATE INDEX by_kept ON outcomes (kept_id);
CREATE INDEX by_reason ON outcomes (folder, reason, rank);
CREATE INDEX by_rank ON outcomes (rank);
"""
FILTERS = ("folder", "stage", "reason", "source", "language")
WHOLE = ("number", "folder", "id", "source", "language", "stage", "reason", "value", "name", "characters", "kept_id")
LISTED = (*WHOLE, "head")
HEAD = 160  # characters shown in lists
VALUES = 200  # of one filter
COPIES = 50  # named beside the document that stayed for them
# Scripts that are written without spaces: every character is a word, and words of more are phrases.
SPACELESS = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")


class Store:
    def __init__(self, path: str) -> None:
        """`path`: of the SQLite file, or `:memory:`."""
        self.connection = sqlite3.connect(path, check_same_thread=False)
        self.connection.executescript(SCHEMA)
        self.run, self.seen = "", 0
        self.report: dict[str, Any] = {}

    def fill(self, run: str, limit: int) -> None:
        """Reads the output folder of a run. Raises UserError when there is none."""
        found = parts(run)
        if not found:
            raise UserError(f"{run}: neither documents nor rejected are here; give the output folder of maxllm curate")
        self.run, self.report = run, report_of(run)
        stages = [row["stage"] for row in self.report.get("funnel", [])]
        sample = Sample(limit)
        for place, (folder, path) in enumerate(found, 1):
            for outcome in outcomes(folder, path, stages):
                self.seen += 1
                group = (folder, outcome.reason)
                if sample.wants(group, outcome.rank):
                    self._add(self.seen, outcome)
                    left_out = sample.add(group, outcome.rank, self.seen)
                    if left_out is not None:
                        self.connection.execute("DELETE FROM outcomes WHERE number = ?", [left_out])
                        self.connection.execute("DELETE FROM bodies WHERE number = ?", [left_out])
            held = _n(sample.size)
            logger.info("inspect: %d of %d files, %s outcomes, %s held", place, len(found), _n(self.seen), held)
        if sample.size < self.seen:
            self._add_kept(found, stages)
        self._index()

    @property
    def held(self) -> int:
        return self.connection.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0]

    def _add_kept(self, found: list[tuple[str, str]], stages: list[str]) -> None:
        """The documents that stayed for the sample's duplicates."""
        rows = self.connection.execute("SELECT kept_id FROM outcomes WHERE kept_id NOT IN (SELECT id FROM outcomes)")
        missing = {kept_id for (kept_id,) in rows}
        number = self.seen
        for folder, path in found:
            if not missing:
                return
            logger.info("inspect: looking in %s for %s documents that duplicates name", path, _n(len(missing)))
            for outcome in outcomes(folder, path, stages):
                if outcome.id in missing:
                    missing.remove(outcome.id)
                    number += 1
                    self._add(number, outcome)

    def _add(self, number: int, outcome: Outcome) -> None:
        body = zlib.compress(json.dumps({"text": outcome.text, "metadata": outcome.metadata}).encode(), 1)
        row = {name: getattr(outcome, name) for name in ("id", "source", "language", "reason", "value", "name")}
        row |= {"number": number, "folder": outcome.folder, "stage": outcome.stage, "kept_id": outcome.kept_id}
        row |= {"rank": outcome.rank, "characters": len(outcome.text)}
        row |= {"head": " ".join(outcome.text[: 4 * HEAD].split())[:HEAD]}
        marks = ", ".join("?" for _ in row)
        self.connection.execute(f"INSERT INTO outcomes ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        self.connection.execute("INSERT INTO bodies VALUES (?, ?)", [number, body])

    def _index(self) -> None:
        """Words, of what stayed in the sample."""
        logger.info("inspect: indexing the words of %s outcomes", _n(self.held))
        query = "SELECT number, id, name, body FROM outcomes JOIN bodies USING (number)"
        for number, id, name, body in self.connection.execute(query):
            row = [number, _spaced(json.loads(zlib.decompress(body))["text"]), _spaced(f"{id} {name}")]
            self.connection.execute("INSERT INTO texts (rowid, text, name) VALUES (?, ?, ?)", row)
        self.connection.executescript(INDICES)
        self.connection.commit()

    def choices(self, filters: dict[str, str]) -> dict[str, list[tuple[str, int]]]:
        """For each filter its values and their counts, under the other filters."""
        found = {}
        for name in FILTERS:
            where, values = _where({key: value for key, value in filters.items() if key != name})
            query = f"SELECT {name}, COUNT(*) FROM outcomes WHERE {where} GROUP BY {name} ORDER BY 2 DESC, 1"
            found[name] = self.connection.execute(f"{query} LIMIT {VALUES}", values).fetchall()
        return found

    def page(self, filters: dict[str, str], offset: int, count: int) -> dict[str, Any]:
        """`total`, and `rows` of what a list shows, in an order that mixes sources and is always the same.

        `filters` may hold `query`: words that all occur, or begin with these letters. `copies`: how many went for it.
        """
        where, values = _where(filters)
        total = self.connection.execute(f"SELECT COUNT(*) FROM outcomes WHERE {where}", values).fetchone()[0]
        rows = self.connection.execute(
            f"SELECT {', '.join(LISTED)}, (SELECT COUNT(*) FROM outcomes AS other WHERE other.kept_id = outcomes.id) "
            f"FROM outcomes WHERE {where} ORDER BY rank, number LIMIT ? OFFSET ?",
            [*values, count, offset],
        )
        return {"total": total, "rows": [dict(zip((*LISTED, "copies"), row, strict=True)) for row in rows]}

    def document(self, number: int) -> dict[str, Any] | None:
        """One outcome whole: with `kept`, the document that stayed for it, and `copies`, the first of `copies_total`
        that went for it."""
        found = self._whole("number = ?", number)
        if found is None:
            return None
        if found["kept_id"] is not None:  # one that stayed may have gone for another later
            found["kept"] = self._whole("id = ? ORDER BY folder = 'dead', folder", found["kept_id"])
        copies = "FROM outcomes WHERE kept_id = ?"
        rows = self.connection.execute(
            f"SELECT number, reason, value, name {copies} ORDER BY rank LIMIT {COPIES}", [found["id"]]
        )
        found["copies"] = [dict(zip(("number", "reason", "value", "name"), row, strict=True)) for row in rows]
        found["copies_total"] = self.connection.execute(f"SELECT COUNT(*) {copies}", [found["id"]]).fetchone()[0]
        return found

    def few_of_each(self, count: int) -> list[int]:
        """The numbers of `count` of each reason, and of each source's kept documents (at most ten times as many)."""
        query = """
        SELECT number FROM (
          SELECT number, folder, ROW_NUMBER() OVER (
            PARTITION BY folder, reason, CASE folder WHEN 'documents' THEN source END ORDER BY rank, number) AS place
          FROM outcomes)
        WHERE place <= :count AND folder {} 'documents' ORDER BY place, number LIMIT :limit
        """
        kept = self.connection.execute(query.format("="), {"count": count, "limit": 10 * count}).fetchall()
        others = self.connection.execute(query.format("<>"), {"count": count, "limit": -1}).fetchall()
        return [number for (number,) in kept + others]

    def _whole(self, where: str, value: Any) -> dict[str, Any] | None:
        query = f"SELECT {', '.join(WHOLE)}, body FROM outcomes JOIN bodies USING (number) WHERE {where} LIMIT 1"
        row = self.connection.execute(query, [value]).fetchone()
        if row is None:
            return None
        return {**dict(zip(WHOLE, row[:-1], strict=True)), **json.loads(zlib.decompress(row[-1]))}


def _where(filters: dict[str, str]) -> tuple[str, list[Any]]:
    conditions, values = ["1"], []
    for name in FILTERS:
        if filters.get(name):
            conditions.append(f"{name} = ?")
            values.append(filters[name])
    if words := filters.get("query", "").replace("\0", " ").split():
        conditions.append("number IN (SELECT rowid FROM texts WHERE texts MATCH ?)")
        # Quoted, so that nothing a user types is FTS5's syntax.
        values.append(" ".join('"' + _spaced(word).replace('"', '""') + '"*' for word in words))
    return " AND ".join(conditions), values


def _spaced(text: str) -> str:
    return SPACELESS.sub(r" \1 ", text)


def _n(value: int) -> str:
    return f"{value:,}"
