"""`augment(config)`: documents in, the same and their changed copies out, in one pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from data_beam.augment.copies import Augment
from data_beam.child import describe
from data_beam.document import DeadLetter, Drop, Rejected
from data_beam.io import files
from data_beam.io.documents import read_documents
from data_beam.outcomes import DEAD, REJECTED, CountAll, WriteOutcomes, routed, tagged, where
from data_beam.phases import Job, Phases
from data_beam.progress import count
from data_beam.run import run_to_documents
from maxllm.config.augment import AugmentConfig
from maxllm.config.errors import UserError

COPIES = "copies"
STAGES = ("read", "augment")


def augment(config: AugmentConfig, beam_args: Sequence[str] = (), *, force: bool = False) -> dict[str, Any]:
    """The numbers of `report.json`, with `copies`. Raises UserError."""
    if not config.documents:
        raise UserError("documents is empty; name the curated files, e.g. documents=['runs/documents/documents/*']")
    made = Augment(config)  # what is wrong with the settings is said before a worker starts
    try:
        inputs = files.matching(config.documents)
    except UserError as error:
        raise UserError(str(error).replace("inputs:", "documents:", 1)) from error
    tree = config.model_dump(mode="json", exclude={"output": {"path"}})
    seen = [[file.path, file.size, file.written] for file in inputs]
    data = json.dumps([tree, sorted(made.synonyms.items()), seen], sort_keys=True)
    return run_to_documents(
        "augment",
        config,
        config.output,
        hashlib.sha256(data.encode()).hexdigest(),
        STAGES,
        partial(_phases, config, [file.path for file in inputs]),
        beam_args,
        force=force,
        extra=lambda manifests: {"copies": sum(number for _, number in manifests[-1]["files"][COPIES])},
    )


def _phases(config: AugmentConfig, paths: list[str], phases: Phases) -> list[dict[str, Any]]:
    return [phases.run("write", partial(_write, config, paths))]


class _Copy(beam.DoFn):
    """Path -> every document's outcome, and its copies."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def setup(self) -> None:
        self.augment = Augment(self.config)

    def process(self, path: str) -> Iterator[Any]:
        for item in read_documents(path):
            count("read")
            if isinstance(item, DeadLetter):
                yield tagged(replace(item, stage="read"))
                continue
            try:
                copies = list(self.augment(item)) if self.augment.changes(item) else []
            except Exception as error:
                yield tagged(DeadLetter(where(item), self.augment.name, describe(error)))
                continue
            original = self.config.keep_original or not copies
            yield item if original else tagged(Rejected(item, Drop("augment.original", len(copies))))
            for copy in copies:
                yield TaggedOutput(COPIES, routed(copy, self.config.output.source))


def _write(config: AugmentConfig, paths: list[str], root: beam.Pipeline, job: Job) -> None:
    outputs = (
        root
        | "Files" >> beam.Create(paths)
        | "Spread" >> beam.Reshuffle()
        | "Copy" >> beam.ParDo(_Copy(config)).with_outputs(REJECTED, DEAD, COPIES, main="kept")
    )
    folders = {
        "documents": [outputs.kept],
        COPIES: [outputs[COPIES]],
        "rejected": [outputs[REJECTED]],
        "dead": [outputs[DEAD]],
    }
    (
        root
        | "Count" >> CountAll([outputs.kept, outputs[REJECTED], outputs[DEAD]])
        | "End" >> WriteOutcomes(job, folders, config.output.format, counted=("documents", "rejected", "dead"))
    )
