"""`select(config)`: curated documents in, the documents to train on out, in up to three phases.

Distributions over buckets (one pass), scores and their thresholds (a second), and the documents themselves (a third):
no phase shuffles a text. A document's way: its date, DSIR, its attributes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import TaggedOutput

from data_beam.document import DeadLetter, Document, Drop, Rejected
from data_beam.io import files
from data_beam.io.documents import read_documents
from data_beam.outcomes import DEAD, REJECTED, CountAll, WriteOutcomes, routed, tagged
from data_beam.output import write_bytes
from data_beam.phases import Job, Phases
from data_beam.progress import count
from data_beam.quantiles import Quantiles
from data_beam.run import run_to_documents
from data_beam.select.age import age_weight, check_age
from data_beam.select.copies import copies, copy_of, weight_of
from data_beam.select.dsir import EVERYTHING, CountBuckets, key_of, log_ratio, score
from maxllm.config.errors import UserError
from maxllm.config.select import SelectConfig

COPIES = "copies"  # of a document, beyond its first
STAGES = ("read", "age", "dsir", "attributes")


def select(config: SelectConfig, beam_args: Sequence[str] = (), *, force: bool = False) -> dict[str, Any]:
    """The numbers of `report.json`. Raises UserError."""
    if not config.documents:
        raise UserError("documents is empty; name the curated files, e.g. documents=['runs/documents/documents/*']")
    documents, target = _files(config.documents, "documents"), _files(config.dsir.target, "dsir.target")
    tree = config.model_dump(mode="json", exclude={"output": {"path"}})
    seen = [[file.path, file.size, file.written] for file in (*documents, *target)]
    fingerprint = hashlib.sha256(json.dumps([tree, seen], sort_keys=True).encode()).hexdigest()
    return run_to_documents(
        "select",
        config,
        config.output,
        fingerprint,
        STAGES,
        partial(_phases, config, [file.path for file in documents], [file.path for file in target]),
        beam_args,
        force=force,
        extra=lambda manifests: {"copies": sum(count for _, count in manifests[-1]["files"]["copies"])},
    )


def _files(patterns: list[str], setting: str) -> list[files.File]:
    try:
        return files.matching(patterns)
    except UserError as error:
        raise UserError(str(error).replace("inputs:", f"{setting}:", 1)) from error


def _phases(config: SelectConfig, documents: list[str], target: list[str], phases: Phases) -> list[dict[str, Any]]:
    importance = None
    if target:
        ratios = phases.run("distributions", partial(_distributions, config, documents, target))["ratios"]
        if not ratios:
            raise UserError(f"dsir.min_words: no document has {config.dsir.min_words} words; lower it")
        cuts = phases.run("thresholds", partial(_thresholds, config, documents, ratios))["thresholds"]
        importance = Importance(config, ratios, cuts)
    return [phases.run("write", partial(_write, config, documents, importance))]


def _read(root: beam.Pipeline, label: str, paths: list[str], config: SelectConfig) -> beam.PCollection:
    return (
        root
        | f"{label} files" >> beam.Create(paths)
        | f"{label} spread" >> beam.Reshuffle()
        | f"{label} read" >> beam.FlatMap(_documents, config)
    )


def _documents(path: str, config: SelectConfig) -> Iterator[Document]:
    """Those of the right age; what cannot be read is told of once, in the last phase."""
    for item in read_documents(path):
        if isinstance(item, Document) and check_age(item, config.age) is None:
            yield item


def _distributions(
    config: SelectConfig, documents: list[str], target: list[str], root: beam.Pipeline, job: Job
) -> None:
    raw = _read(root, "Raw", documents, config) | "Raw counts" >> CountBuckets(config.dsir, keyed=True)
    wanted = _read(root, "Target", target, SelectConfig()) | "Target counts" >> CountBuckets(config.dsir, keyed=False)
    (
        root
        | beam.Create([job], reshuffle=False)
        | beam.Map(_write_ratios, raw=beam.pvalue.AsDict(raw), target=beam.pvalue.AsDict(wanted))
    )


def _write_ratios(job: Job, raw: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> None:
    """A file a key: float64 [buckets], little-endian."""
    if EVERYTHING not in target:
        raise UserError("dsir.target: there is no document in it")
    ratios = {}
    for number, key in enumerate(sorted(raw)):
        ratios[key] = job.path(f"{number:06d}.float64")
        write_bytes(ratios[key], log_ratio(target[EVERYTHING], raw[key]).astype("<f8").tobytes())
    job.finish(ratios=ratios)


class Importance:
    """The score of a document, and the least that is kept, by key."""

    def __init__(self, config: SelectConfig, ratios: dict[str, str], cuts: dict[str, float] | None = None) -> None:
        self.config, self.paths, self.cuts = config.dsir, ratios, cuts or {}
        self.loaded: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": {}}  # workers read them for themselves

    def score(self, document: Document) -> float:
        key = key_of(document, self.config)
        if key not in self.paths:
            return float("-inf")  # none of its documents is long enough
        if key not in self.loaded:
            with FileSystems.open(self.paths[key]) as stream:
                self.loaded[key] = np.frombuffer(stream.read(), "<f8")
        return score(document, self.loaded[key], self.config)

    def check(self, document: Document) -> Drop | None:
        value = self.score(document)
        if value == float("-inf"):
            return Drop("dsir.too_short", len(document.text))
        cut = self.cuts[key_of(document, self.config)]
        return None if float(np.float32(value)) >= cut else Drop("dsir.less_important", round(value, 3))


def _thresholds(
    config: SelectConfig, documents: list[str], ratios: dict[str, str], root: beam.Pipeline, job: Job
) -> None:
    importance = Importance(config, ratios)
    cuts = (
        _read(root, "Raw", documents, config)
        | "Scores" >> beam.Map(_keyed_score, importance).with_output_types(tuple[str, float])
        | "Cuts" >> Quantiles([1 - config.dsir.fraction])
    )
    root | beam.Create([job], reshuffle=False) | beam.Map(_write_cuts, cuts=beam.pvalue.AsDict(cuts))


def _keyed_score(document: Document, importance: Importance) -> tuple[str, float]:
    return key_of(document, importance.config), importance.score(document)


def _write_cuts(job: Job, cuts: dict[str, list[float]]) -> None:
    job.finish(thresholds={key: values[0] for key, values in cuts.items()})


class _Choose(beam.DoFn):
    """Path -> every document's outcome; a document may come out several times."""

    def __init__(self, config: SelectConfig, importance: Importance | None) -> None:
        self.config, self.importance = config, importance

    def process(self, path: str) -> Iterator[Any]:
        for item in read_documents(path):
            count("read")
            if isinstance(item, DeadLetter):
                yield tagged(replace(item, stage="read"))
                continue
            drop = check_age(item, self.config.age) or (self.importance.check(item) if self.importance else None)
            if drop:
                yield tagged(Rejected(item, drop))
                continue
            weight = weight_of(item, self.config.attributes) * age_weight(item, self.config.age)
            number = copies(item.id, weight, self.config.seed)
            if number == 0:
                yield tagged(Rejected(item, Drop("attributes.not_drawn", round(weight, 4))))
            for copy in range(number):
                document = routed(copy_of(item, copy), self.config.output.source)
                yield TaggedOutput(COPIES, document) if copy else document


def _write(
    config: SelectConfig, documents: list[str], importance: Importance | None, root: beam.Pipeline, job: Job
) -> None:
    outputs = (
        root
        | "Files" >> beam.Create(documents)
        | "Spread" >> beam.Reshuffle()
        | "Choose" >> beam.ParDo(_Choose(config, importance)).with_outputs(REJECTED, DEAD, COPIES, main="kept")
    )
    (
        root
        | "Count" >> CountAll([outputs.kept, outputs[REJECTED], outputs[DEAD]])
        | "End"
        >> WriteOutcomes(
            job,
            {
                "documents": [outputs.kept],
                "copies": [outputs[COPIES]],
                "rejected": [outputs[REJECTED]],
                "dead": [outputs[DEAD]],
            },
            config.output.format,
            counted=("documents", "rejected", "dead"),
        )
    )
