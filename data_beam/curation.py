"""The curation pipeline: read → url → extract → language → quality → code → decontamination → dedup → outputs.

Everything up to dedup happens to a document in one place, so that its text is read once. Dedup shuffles hashes, ages
and ids only; text crosses one shuffle, the join that applies dedup's verdicts. Every document read ends as exactly one
of kept, rejected or dead, and a run that cannot show it by counting its outputs fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from data_beam.child import ChildError, describe
from data_beam.dedup.exact import ExactDuplicates
from data_beam.dedup.minhash import FuzzyDuplicates
from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.io import source
from data_beam.io.sinks import WriteOutcomes
from data_beam.progress import count
from data_beam.report.manifest import write_manifest
from data_beam.report.summary import Summarise
from data_beam.stages.code import CodeSyntax
from data_beam.stages.decontaminate import Decontaminate
from data_beam.stages.extract import Extract
from data_beam.stages.language import Language
from data_beam.stages.quality import Quality
from data_beam.stages.url import UrlFilter
from maxllm.config.curate import CurateConfig, InputConfig

REJECTED, DEAD = "rejected", "dead"
STAGES = ("read", "url", "extract", "language", "quality", "code", "decontamination", "exact_dedup", "fuzzy_dedup")
Stage = Callable[[Document], Document | Drop]


def stages_before_extraction(config: CurateConfig) -> list[Stage]:
    return [UrlFilter(config.url)] if config.url.enabled else []


def stages_after_extraction(config: CurateConfig) -> list[Stage]:
    stages: list[Stage] = []
    if config.language.enabled:
        stages.append(Language(config.language))
    stages.append(Quality(config.quality))
    if config.code.enabled:
        stages.append(CodeSyntax(config.code))
    if config.decontamination.enabled and config.decontamination.paths:
        stages.append(Decontaminate(config.decontamination))
    return stages


class ListWork(beam.DoFn):
    def process(self, config: InputConfig) -> Iterator[tuple[InputConfig, source.Work]]:
        for work in source.format_module(config).list_work(config):
            yield config, work


class Read(beam.DoFn):
    def process(self, element: tuple[InputConfig, source.Work]) -> Iterator[Any]:
        for item in source.read(*element):
            count("read")
            yield tagged(item)


class ApplyStages(beam.DoFn):
    """Stages one after the other; the first verdict ends a document's way, an exception makes it a dead letter."""

    def __init__(self, config: CurateConfig, make_stages: Callable[[CurateConfig], list[Stage]]) -> None:
        self.config, self.make_stages = config, make_stages

    def setup(self) -> None:
        self.stages = self.make_stages(self.config)

    def process(self, document: Document) -> Iterator[Any]:
        outcome = apply(self.stages, document)
        if not isinstance(outcome, Document):
            count("dropped" if isinstance(outcome, Rejected) else "failed")
        yield tagged(outcome)


def apply(stages: Iterable[Stage], document: Document) -> Document | Rejected | DeadLetter:
    for stage in stages:
        try:
            result = stage(document)
        except Exception as error:
            return DeadLetter(where(document), stage.name, describe(error))  # type: ignore[attr-defined]
        if isinstance(result, Drop):
            return Rejected(document, result)
        document = result
    return document


class ExtractText(beam.DoFn):
    """Extraction, one document ahead: while the child works on a page, this process takes the last one further."""

    def __init__(self, config: CurateConfig) -> None:
        self.config = config

    def setup(self) -> None:
        self.extract = Extract(self.config.extract)

    def start_bundle(self) -> None:
        if self.extract.document is not None:  # left by a bundle that failed, which will be tried again as a whole
            self.extract.close()
            self.extract.document = None

    def process(self, document: Document) -> Iterator[Any]:
        waiting, refused = self._collect(), self._submit(document)
        yield from (tagged(item) for item in (waiting, refused) if item is not None)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if (item := self._collect()) is not None:
            yield _in_global_window(tagged(item))

    def teardown(self) -> None:
        self.extract.close()

    def _submit(self, document: Document) -> DeadLetter | None:
        try:
            self.extract.submit(document)
        except ChildError as error:
            self.extract.document = None
            return DeadLetter(where(document), self.extract.name, str(error))
        return None

    def _collect(self) -> Document | Rejected | DeadLetter | None:
        document = self.extract.document
        if document is None:
            return None
        try:
            result = self.extract.result()
        except ChildError as error:
            return DeadLetter(where(document), self.extract.name, str(error))
        return Rejected(document, result) if isinstance(result, Drop) else result


class Decide(beam.DoFn):
    """(id, documents and dedup's verdicts on them) -> kept or rejected. An exact copy is called that."""

    def process(self, element: tuple[str, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        _, group = element
        drops = sorted(group["drops"], key=lambda drop: (drop.reason, str(drop.value)))
        for document in group["documents"]:
            yield tagged(Rejected(document, drops[0]) if drops else document)


def where(document: Document) -> str:
    metadata = document.metadata
    name = metadata.get("url") or metadata.get("path") or metadata.get("module")
    return f"{document.id} {name}" if name else document.id


def tagged(item: Document | Rejected | DeadLetter) -> Any:
    if isinstance(item, Rejected):
        return TaggedOutput(REJECTED, item)
    return TaggedOutput(DEAD, item) if isinstance(item, DeadLetter) else item


def _in_global_window(item: Any) -> Any:
    window = GlobalWindow()
    if isinstance(item, TaggedOutput):
        return TaggedOutput(item.tag, WindowedValue(item.value, window.max_timestamp(), [window]))
    return WindowedValue(item, window.max_timestamp(), [window])


class Curate(beam.PTransform):
    """The whole pipeline over one config; writes below `folder`, its manifest last."""

    def __init__(self, config: CurateConfig, folder: str) -> None:
        super().__init__()
        self.config, self.folder = config, folder

    def expand(self, root: beam.Pipeline) -> None:
        config = self.config
        rejected: list[beam.PCollection] = []
        dead: list[beam.PCollection] = []

        def outcomes(label: str, documents: beam.PCollection, step: beam.DoFn) -> beam.PCollection:
            outputs = documents | label >> beam.ParDo(step).with_outputs(REJECTED, DEAD, main="kept")
            rejected.append(outputs[REJECTED])
            dead.append(outputs[DEAD])
            return outputs.kept

        work = (
            root
            | "Inputs" >> beam.Create(list(config.inputs), reshuffle=False)
            | "ListWork" >> beam.ParDo(ListWork())
            | "Spread" >> beam.Reshuffle()  # of names, before anything is read
        )
        documents = outcomes("Read", work, Read())
        read = [documents, rejected[0], dead[0]]
        documents = outcomes("Url", documents, ApplyStages(config, stages_before_extraction))
        if config.extract.enabled:
            documents = outcomes("Extract", documents, ExtractText(config))
        documents = outcomes("Rules", documents, ApplyStages(config, stages_after_extraction))

        drops = []
        if config.exact_dedup.enabled:
            drops.append(documents | "ExactDuplicates" >> ExactDuplicates())
        if config.fuzzy_dedup.enabled:
            drops.append(documents | "FuzzyDuplicates" >> FuzzyDuplicates(config.fuzzy_dedup))
        if drops:
            by_id = documents | "ById" >> beam.Map(lambda document: (document.id, document))
            verdicts = drops | "AllDrops" >> beam.Flatten()
            joined = {"documents": by_id, "drops": verdicts} | "Join" >> beam.CoGroupByKey()
            documents = outcomes("Decide", joined, Decide())

        all_rejected = rejected | "AllRejected" >> beam.Flatten()
        all_dead = dead | "AllDead" >> beam.Flatten()
        counts = read | "AllRead" >> beam.Flatten() | "CountRead" >> beam.combiners.Count.Globally()
        summary = (
            (documents, all_rejected, all_dead)
            | "AllOutcomes" >> beam.Flatten()
            | "Summarise" >> beam.CombineGlobally(Summarise())
        )
        folders = {
            "documents": documents
            | "WriteDocuments" >> WriteOutcomes(f"{self.folder}/documents", config.output.format),
            "rejected": all_rejected | "WriteRejected" >> WriteOutcomes(f"{self.folder}/rejected", "jsonl.zst"),
            "dead": all_dead | "WriteDead" >> WriteOutcomes(f"{self.folder}/dead", "jsonl.zst"),
        }
        (
            root
            | "Last" >> beam.Create([self.folder], reshuffle=False)
            | "Manifest"
            >> beam.Map(
                write_manifest,
                read=beam.pvalue.AsSingleton(counts),
                summary=beam.pvalue.AsSingleton(summary),
                **{name: beam.pvalue.AsList(files) for name, files in folders.items()},
            )
        )
