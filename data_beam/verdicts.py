"""Verdicts that need more than one document: kept in files beside the documents, applied whenever these are read.

A phase reads the documents of earlier ones, part by part, with the verdicts passed so far already applied, and
writes its own verdicts in one small file for each part. So no phase ever shuffles a text: names, ages, hashes and
verdicts travel, and texts are streamed from where they lie.

Inside a run a document is called ID@PART.ROW: the part and row say where its verdicts belong, and two documents that
came with the same id stay two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam

from data_beam.document import Document, Drop, Edit, Rejected
from data_beam.io.documents import read_documents
from data_beam.io.files import chunks, lines
from data_beam.output import write_bytes
from data_beam.parts import to_line
from data_beam.phases import Job

_PLACE = re.compile(r"@(\d{7,})\.(\d{9,})")
_MAX_LINE = 1 << 28


@dataclass(frozen=True, slots=True)
class Part:
    """A file of documents, and the files of verdicts on them, in the order of the phases that passed them."""

    number: int
    path: str
    verdicts: tuple[str, ...] = ()


def name_in_run(id: str, part: int, row: int) -> str:
    return f"{id}@{part:07d}.{row:09d}"


def without_places(value: Any) -> Any:
    """Names in a drop's value as users know them."""
    return _PLACE.sub("", value) if isinstance(value, str) else value


def place_of(name: str) -> tuple[int, int]:
    part, row = name.rpartition("@")[2].split(".")
    return int(part), int(row)


class ReadParts(beam.DoFn):
    """Part -> its documents, without those dropped and with their edits made; `outcomes` yields the dropped too."""

    def __init__(self, outcomes: bool = False) -> None:
        self.outcomes = outcomes

    def process(self, part: Part) -> Iterator[Any]:
        phases = [read_verdicts(path) for path in part.verdicts]
        for row, document in enumerate(read_documents(part.path)):
            if not isinstance(document, Document):
                raise RuntimeError(f"{document.where}: {document.error}; the staging folder was damaged, use --force")
            outcome = apply([phase[row] for phase in phases if row in phase], document)
            if self.outcomes:
                yield outcome
            elif isinstance(outcome, Document):
                yield replace(outcome, id=name_in_run(document.id, part.number, row))


def apply(phases: Iterable[list[Drop | Edit]], document: Document) -> Document | Rejected:
    """The verdicts of each phase in turn: a drop beats edits, and of several drops the first by name stands."""
    for verdicts in phases:
        drops = [verdict for verdict in verdicts if isinstance(verdict, Drop)]
        if drops:
            return Rejected(document, min(drops, key=lambda drop: (drop.reason, str(drop.value))))
        edits = sorted((each for each in verdicts if isinstance(each, Edit)), key=lambda each: each.reason)
        if not edits:
            continue
        text = cut(document.text, [span for edit in edits for span in edit.remove])
        metadata = {key: value for edit in edits for key, value in edit.metadata.items()}
        removed = {edit.reason: sum(end - start for start, end in edit.remove) for edit in edits if edit.remove}
        if removed:
            metadata["removed_characters"] = {**document.metadata.get("removed_characters", {}), **removed}
        left = len(text.split())
        for edit in edits:
            if left < edit.min_words or (left == 0 and edit.remove):
                return Rejected(document, Drop(f"{edit.reason.partition('.')[0]}.too_little_left", left))
        document = document.with_text(text, **metadata)
    return document


def cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text without the characters of any span [start, end)."""
    kept: list[str] = []
    position = 0
    for start, end in sorted(spans):
        if start > position:
            kept.append(text[position:start])
        position = max(position, end)
    kept.append(text[position:])
    return "".join(kept)


def read_verdicts(path: str) -> dict[int, list[Drop | Edit]]:
    """By row."""
    found: dict[int, list[Drop | Edit]] = {}
    for line in lines(chunks(path), _MAX_LINE):
        record = json.loads(line)  # type: ignore[arg-type]
        verdict: Drop | Edit
        if "drop" in record:
            verdict = Drop(record["drop"], record["value"])
        else:
            verdict = Edit(
                record["edit"],
                tuple((start, end) for start, end in record["remove"]),
                record["metadata"],
                record["min_words"],
            )
        found.setdefault(record["row"], []).append(verdict)
    return found


def by_part(item: tuple[str, Drop | Edit]) -> tuple[int, tuple[int, Drop | Edit]]:
    name, verdict = item
    part, row = place_of(name)
    return part, (row, verdict)


def write_part(group: tuple[int, Iterable[tuple[int, Drop | Edit]]], job: Job) -> tuple[int, str]:
    part, verdicts = group
    path = job.path(f"{part:07d}.jsonl")
    records = []
    for row, verdict in verdicts:
        if isinstance(verdict, Drop):
            records.append({"row": row, "drop": verdict.reason, "value": without_places(verdict.value)})
        else:
            content = {"remove": verdict.remove, "metadata": verdict.metadata, "min_words": verdict.min_words}
            records.append({"row": row, "edit": verdict.reason, **content})
    write_bytes(path, b"".join(sorted(map(to_line, records))))
    return part, path


class WriteVerdicts(beam.PTransform):
    """(name in the run, Drop | Edit) -> a file for each part that has any; ends the phase's job."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def expand(self, verdicts: beam.PCollection[tuple[str, Drop | Edit]]) -> beam.PCollection:
        return (
            verdicts
            | "ByPart" >> beam.Map(by_part)
            | "Parts" >> beam.GroupByKey()
            | "WriteVerdicts" >> beam.Map(write_part, self.job)
            | "All" >> beam.combiners.ToList()
            | "Finish" >> beam.Map(_finish, self.job)
        )


def _finish(written: list[tuple[int, str]], job: Job) -> None:
    job.finish(verdicts={str(part): path for part, path in written})


def with_verdicts(parts: list[Part], manifest: dict[str, Any]) -> list[Part]:
    """The parts with one more phase's verdicts."""
    found = manifest["verdicts"]
    return [
        replace(part, verdicts=(*part.verdicts, found[str(part.number)])) if str(part.number) in found else part
        for part in parts
    ]
