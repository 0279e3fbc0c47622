"""Scores of many documents at once, for models on an accelerator; `Classify` then finds them stored.

Placed before the stages it helps: `documents | MeasureInBatches(config.classifiers)`. On processors it gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apache_beam as beam

from data_beam.document import Document
from data_beam.stages.classify import Classify
from maxllm.config.classify import ClassifierConfig

BATCH = 32


class MeasureInBatches(beam.PTransform):
    """Documents -> the same documents with their scores in metadata.signals.

    A batch that fails is passed on as it came: scored one by one, only the document that is to blame becomes a dead
    letter.
    """

    def __init__(self, classifiers: Sequence[ClassifierConfig]) -> None:
        super().__init__()
        self.classifiers = list(classifiers)

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[Document]:
        return (
            documents
            | "Batch" >> beam.BatchElements(min_batch_size=BATCH, max_batch_size=8 * BATCH)
            | "Score" >> beam.ParDo(_Measure(self.classifiers))
        )


class _Measure(beam.DoFn):
    def __init__(self, classifiers: Sequence[ClassifierConfig]) -> None:
        self.classifiers = classifiers

    def setup(self) -> None:
        self.stage = Classify(self.classifiers)

    def process(self, documents: list[Document]) -> Iterable[Document]:
        try:
            return self.stage.measure_batch(documents)
        except Exception:
            return documents
