"""Where documents' ways end in a job: kept, rejected or dead, written to files, counted and summed up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from data_beam.document import DeadLetter, Document, Rejected
from data_beam.parts import BETWEEN, WriteParts
from data_beam.phases import Job
from data_beam.report.summary import MergeSummaries, SummarisePart

REJECTED, DEAD = "rejected", "dead"


def where(document: Document) -> str:
    metadata = document.metadata
    name = metadata.get("url") or metadata.get("path") or metadata.get("module")
    return f"{document.id} {name}" if name else document.id


def tagged(item: Document | Rejected | DeadLetter) -> Any:
    if isinstance(item, Rejected):
        return TaggedOutput(REJECTED, item)
    return TaggedOutput(DEAD, item) if isinstance(item, DeadLetter) else item


def in_global_window(item: Any) -> Any:
    window = GlobalWindow()
    if isinstance(item, TaggedOutput):
        return TaggedOutput(item.tag, WindowedValue(item.value, window.max_timestamp(), [window]))
    return WindowedValue(item, window.max_timestamp(), [window])


class CountAll(beam.PTransform):
    """How many there are, in several collections together.

    Each is counted by itself and the counts are added: Beam's local runner holds in memory all that is flattened.
    """

    def __init__(self, collections: list[beam.PCollection]) -> None:
        super().__init__()
        self.collections = collections

    def expand(self, root: beam.Pipeline) -> beam.PCollection[int]:
        counting = beam.combiners.CountCombineFn()
        counts = [
            each | f"Count {number}" >> beam.CombineGlobally(counting).without_defaults()
            for number, each in enumerate(self.collections)
        ]
        return counts | beam.Flatten() | "Add" >> beam.CombineGlobally(sum)


class WriteOutcomes(beam.PTransform):
    """The number of documents read -> the end of a phase: its outcomes in files by folder, their summary."""

    def __init__(
        self,
        job: Job,
        folders: dict[str, list[beam.PCollection]],
        format: str,
        *,
        counted: tuple[str, ...],
        masked: bool = False,
        more: dict[str, beam.PCollection] | None = None,
    ) -> None:
        super().__init__()
        self.job, self.folders, self.format, self.counted, self.masked = job, folders, format, counted, masked
        self.more = more or {}  # single values for the manifest

    def expand(self, read: beam.PCollection[int]) -> beam.PCollection:
        # As in CountAll, what is flattened is what has become of the documents, never the documents.
        written, summaries = {}, []
        for name, collections in self.folders.items():
            format = self.format if name in ("documents", "copies") else BETWEEN
            files = []
            for number, each in enumerate(collections):
                files.append(each | f"Write {name} {number}" >> beam.ParDo(WriteParts(self.job.path(name), format)))
                if name in self.counted:
                    partial = beam.CombineGlobally(SummarisePart(self.masked)).without_defaults()
                    summaries.append(each | f"Summarise {name} {number}" >> partial)
            written[name] = beam.pvalue.AsList(files | f"Files {name}" >> beam.Flatten())
        summary = summaries | "Summaries" >> beam.Flatten() | "Summarise" >> beam.CombineGlobally(MergeSummaries())
        more = {name: beam.pvalue.AsSingleton(value) for name, value in self.more.items()}
        return read | "Finish" >> beam.Map(
            _finish,
            job=self.job,
            names=tuple(written),
            summary=beam.pvalue.AsSingleton(summary),
            **written,
            **more,
        )


def _finish(read: int, job: Job, names: tuple[str, ...], summary: dict[str, Any], **content: Any) -> None:
    files = {name: sorted(content.pop(name)) for name in names}
    job.finish(read=read, summary=summary, files=files, **content)


def routed(document: Document, template: str) -> Document:
    """`source` by a template over metadata: `{source}/{language}`. A key the document lacks is `unknown`."""
    if template == "{source}":
        return document
    values = _Known({**document.metadata, "source": document.source})
    return replace(document, source=template.format_map(values))


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "unknown"
