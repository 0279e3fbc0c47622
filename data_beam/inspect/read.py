"""What a run left behind, one outcome after the other, whatever the files look like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash
from apache_beam.io.filesystems import FileSystems

from data_beam.document import DeadLetter, Document
from data_beam.io import clean
from data_beam.io.documents import read_documents
from data_beam.io.files import chunks, lines
from data_beam.output import files_below, read_json

FOLDERS = ("documents", "rejected", "dead")
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
MAX_LINE = 1 << 28  # bytes
UNREADABLE = "inspect"  # the stage of a dead letter that is ours, not the run's


@dataclass(frozen=True, slots=True)
class Outcome:
    """A document or a dead letter. `kept_id`: of the document that stayed for a duplicate."""

    folder: str
    id: str
    name: str  # what a reader knows it by: an address, a path, else the id
    text: str
    source: str = ""
    language: str = ""
    stage: str = ""
    reason: str = ""
    value: str = ""
    kept_id: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def rank(self) -> int:
        return rank_of(self.id)


def rank_of(id: str) -> int:
    """63 bits, by the id alone: the order of lists and of who stays in a sample."""
    return xxhash.xxh3_64_intdigest(id.encode("utf-8", "replace")) >> 1


def report_of(run: str) -> dict[str, Any]:
    """`report.json`; empty where there is none, or none that can be read."""
    try:
        report = read_json(FileSystems.join(run, "report.json"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def parts(run: str) -> list[tuple[str, str]]:
    """(folder, path) of every file with outcomes."""
    return [
        (folder, path)
        for folder in FOLDERS
        for path in files_below(FileSystems.join(run, folder))
        if path.endswith(ENDINGS)
    ]


def outcomes(folder: str, path: str, stages: Sequence[str]) -> Iterator[Outcome]:
    """What cannot be read is a dead letter of its own. `stages`: those of the funnel, where they are known."""
    short = "/".join(path.split("/")[-2:])
    try:
        if folder == "dead":
            for line in lines(chunks(path), MAX_LINE):
                yield _letter(json.loads(line), short)  # type: ignore[arg-type]
            return
        for item in read_documents(path):
            if isinstance(item, DeadLetter):
                yield _unreadable(item.where.replace(path, short), item.error)
            else:
                yield _outcome(folder, item, stages)
    except Exception as error:  # whatever a damaged file makes of its reader, the other files are still to be seen
        yield _unreadable(short, f"{type(error).__name__}: {error}"[:500])


def _unreadable(where: str, error: str) -> Outcome:
    return _dead(where, UNREADABLE, error)


def _letter(record: Any, short: str) -> Outcome:
    if not isinstance(record, dict):
        return _unreadable(short, "not a dead letter")
    return _dead(*(clean.text(str(record.get(key, ""))) for key in ("where", "stage", "error")))


def _dead(where: str, stage: str, error: str) -> Outcome:
    id = where.partition(" ")[0]
    return Outcome("dead", id, where, error, stage=stage, reason=f"failed in {stage}", metadata={})


def _outcome(folder: str, document: Document, stages: Sequence[str]) -> Outcome:
    metadata = dict(document.metadata)
    reason, value = str(metadata.pop("drop_reason", "")), metadata.pop("drop_value", None)
    language = metadata.get("language") or metadata.get("programming_language") or "unknown"
    name = metadata.get("url") or metadata.get("path") or metadata.get("module") or document.id
    dates = {name: at for name, at in (("added", document.added), ("created", document.created)) if at}
    return Outcome(
        folder=folder,
        id=document.id,
        name=str(name),
        text=document.text,
        source=document.source,
        language=str(language),
        stage=_stage_of(reason, stages),
        reason=reason,
        value="" if value is None else str(value),
        kept_id=_kept_id(reason, value),
        metadata={**dates, **metadata},
    )


def _stage_of(reason: str, stages: Sequence[str]) -> str:
    """As the funnel counts: the rule sets of `quality` name themselves."""
    stage = reason.partition(".")[0]
    return "quality" if stage and "quality" in stages and stage not in stages else stage


def _kept_id(reason: str, value: Any) -> str | None:
    """Of the reasons whose value names the document that stays."""
    if reason in ("exact_dedup.duplicate", "exact_dedup.url", "fuzzy_dedup.near_duplicate"):
        return str(value)
    return str(value).rpartition(" ")[0] or None if reason == "semantic_dedup.near_meaning" else None
