from __future__ import annotations

import base64
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_beam.dedup.driver import find_duplicates
from data_beam.document import Document, Drop
from data_beam.output import Output
from data_beam.phases import Phases
from data_beam.verdicts import Part, ReadParts, read_verdicts, without_places
from maxllm.config.dedup import DedupIndexConfig, ExactDedupConfig, FuzzyDedupConfig


def _line(element: Any) -> str:
    return base64.b64encode(pickle.dumps(element)).decode()


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., list]:
    """What a transform makes of the elements, in no order; through a file, so that workers may be other processes."""
    numbers = itertools.count()

    def run(transform: beam.PTransform, elements: list, *options: str) -> list:
        prefix = tmp_path / f"collected{next(numbers)}"
        pipeline = beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(list(options)))
        made = pipeline | beam.Create(elements, reshuffle=False) | transform
        made | "line" >> beam.Map(_line) | "write" >> beam.io.WriteToText(str(prefix))
        pipeline.run().wait_until_finish()
        found = (line for path in tmp_path.glob(f"{prefix.name}-*") for line in path.read_text().splitlines())
        return [pickle.loads(base64.b64decode(line)) for line in found]  # noqa: S301

    return run


def read(root: beam.Pipeline, parts: list[Part]) -> beam.PCollection[Document]:
    return root | "parts" >> beam.Create(parts) | "documents" >> beam.ParDo(ReadParts())


class Duplicates:
    """find_duplicates on documents in two files, as `maxllm curate` calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs = 0  # of the last call
        self.stop_after: int | None = None  # as many jobs

    def __call__(
        self,
        documents: list[Document],
        exact: ExactDedupConfig | None = None,
        fuzzy: FuzzyDedupConfig | None = None,
        kept: DedupIndexConfig | None = None,
        name: str = "run",
        *options: str,
    ) -> dict[str, set[tuple[str, str]]]:
        """Reasons and values of each dropped document's drops."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        ids: list[list[str]] = []
        for number in range(2):
            rows = documents[number::2]
            ids.append([row.id for row in rows])
            (folder / f"{number}.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
        phases = Phases(Output(str(folder), "f" * 64), options)
        parts = [Part(number, str(folder / f"{number}.jsonl")) for number in range(2)]

        def run(job: str, build: Callable) -> dict:
            if phases.jobs == self.stop_after:
                raise KeyboardInterrupt
            return phases.run(job, build)

        try:
            parts = find_duplicates(run, read, parts, exact or ExactDedupConfig(), fuzzy or FuzzyDedupConfig(), kept)
        finally:
            self.jobs = phases.jobs
        found: dict[str, set[tuple[str, str]]] = {}
        for part in parts:
            for path in part.verdicts:
                for row, drops in read_verdicts(path).items():
                    assert all(isinstance(drop, Drop) for drop in drops)
                    pairs = {(drop.reason, without_places(drop.value)) for drop in drops}
                    found.setdefault(ids[part.number][row], set()).update(pairs)
        return found


@pytest.fixture
def duplicates(tmp_path: Path) -> Duplicates:
    return Duplicates(tmp_path)
