"""The graph of curation: its first phase, read → url → extract → ... → decontamination, and its last.

Whatever one document decides happens to it in one place, so that its text is read once. What needs more than one
document comes in phases of its own (data_beam/pipeline.py), which shuffle names, hashes and verdicts, never a text.
Every document read ends as exactly one of kept, rejected or dead, and a run that cannot show it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from data_beam.child import ChildError, describe
from data_beam.decontaminate.summary import SummariseContamination
from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.io import source
from data_beam.outcomes import DEAD, REJECTED, CountAll, WriteOutcomes, in_global_window, routed, tagged, where
from data_beam.parts import BETWEEN
from data_beam.phases import Job
from data_beam.progress import count
from data_beam.stages.classify import Classify
from data_beam.stages.code import CodeSyntax
from data_beam.stages.decontaminate import Decontaminate
from data_beam.stages.extract import Extract
from data_beam.stages.language import Language
from data_beam.stages.perplexity import Perplexity
from data_beam.stages.pii import Pii, PiiLimit
from data_beam.stages.quality import Quality
from data_beam.stages.stage import Stage, without_signals
from data_beam.stages.toxicity import Toxicity
from data_beam.stages.url import UrlFilter
from data_beam.verdicts import Part, ReadParts
from maxllm.config.curate import CurateConfig, InputConfig

Step = Callable[[Document], Document | Drop | Rejected]


def stages_before_extraction(config: CurateConfig) -> list[Stage]:
    return [UrlFilter(config.url)] if config.url.enabled else []


def stages_after_extraction(config: CurateConfig) -> list[Stage]:
    """Masking first, so that nothing later writes down what it should not; then what costs least."""
    stages: list[Stage] = []
    if config.pii.enabled:
        stages += [Pii(config.pii), PiiLimit(config.pii)]
    if config.code.enabled:
        stages.append(CodeSyntax(config.code))
    if config.language.enabled:
        stages.append(Language(config.language))
    stages.append(Quality(config.quality))
    if config.classifiers:
        stages.append(Classify(config.classifiers))
    if config.toxicity.enabled:
        stages.append(Toxicity(config.toxicity))
    if config.perplexity.enabled:
        stages.append(Perplexity(config.perplexity))
    if has_decontamination(config):
        stages.append(Decontaminate(config.decontamination))
    return stages


def has_decontamination(config: CurateConfig) -> bool:
    return config.decontamination.enabled and bool(config.decontamination.paths)


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
        self.steps = [(stage.name, step_of(stage, self.config)) for stage in self.stages]

    def teardown(self) -> None:
        for stage in self.stages:
            getattr(stage, "close", lambda: None)()  # a child process of its own, where it has one

    def process(self, document: Document) -> Iterator[Any]:
        outcome = apply(self.steps, document)
        if not isinstance(outcome, Document):
            count("dropped" if isinstance(outcome, Rejected) else "failed")
        yield tagged(outcome)


def step_of(stage: Any, config: CurateConfig) -> Step:
    """What is done with a document: the stage's shortest way to a verdict, or measuring, with or without deciding."""
    if not config.signals.decide:
        return stage.measure if hasattr(stage, "measure") else lambda document: document
    if config.signals.store and hasattr(stage, "measure"):
        return lambda document: stage.decide(stage.measure(document))
    return stage


def apply(steps: Iterable[tuple[str, Step]], document: Document) -> Document | Rejected | DeadLetter:
    for name, step in steps:
        try:
            result = step(document)
        except Exception as error:
            return DeadLetter(where(document), name, describe(error))
        if isinstance(result, Drop):
            return Rejected(document, result)
        if isinstance(result, Rejected):  # with what the stage has to say of it in its metadata
            return result
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
            yield in_global_window(tagged(item))

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


class Filter(beam.PTransform):
    """The first phase: everything that is decided by one document alone. Writes what is left for the next phase, or,
    as the only phase, as a run leaves it."""

    def __init__(self, config: CurateConfig, job: Job, *, only: bool) -> None:
        super().__init__()
        self.config, self.job, self.only = config, job, only

    def expand(self, root: beam.Pipeline) -> beam.PCollection:
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
        if self.only:
            documents = documents | "AsWritten" >> beam.Map(as_written, config)
        more = {}
        if has_decontamination(config):
            # The last stages' rejects: decontamination is among these, and a Flatten of texts would cost memory.
            more["contamination"] = rejected[-1] | "Contamination" >> beam.CombineGlobally(SummariseContamination())
        return (
            root
            | "Count" >> CountAll(read)
            | "End"
            >> WriteOutcomes(
                self.job,
                {"documents": [documents], "rejected": rejected, "dead": dead},
                config.output.format if self.only else BETWEEN,
                counted=("documents", "rejected", "dead") if self.only else ("rejected", "dead"),
                masked=config.pii.enabled,
                more=more,
            )
        )


class Finish(beam.PTransform):
    """The last phase: the documents with all verdicts applied, written as a run leaves them."""

    def __init__(self, config: CurateConfig, parts: list[Part], job: Job) -> None:
        super().__init__()
        self.config, self.parts, self.job = config, parts, job

    def expand(self, root: beam.Pipeline) -> beam.PCollection:
        outputs = (
            root
            | "Parts" >> beam.Create(self.parts)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadParts(outcomes=True))
            | "Kept or not" >> beam.Map(tagged).with_outputs(REJECTED, main="kept")
        )
        kept = outputs.kept | "AsWritten" >> beam.Map(as_written, self.config)
        return (
            root
            | "Nothing read" >> beam.Create([0], reshuffle=False)
            | "End"
            >> WriteOutcomes(
                self.job,
                {"documents": [kept], "rejected": [outputs[REJECTED]]},
                self.config.output.format,
                counted=("documents", "rejected"),
                masked=self.config.pii.enabled,
            )
        )


def as_written(document: Document, config: CurateConfig) -> Document:
    """A document as a run leaves it: its source routed, measured values only if asked for."""
    if not config.signals.store:
        document = without_signals(document)
    return routed(document, config.output.source)
