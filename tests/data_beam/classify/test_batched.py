"""Scored in batches or one by one: the same documents come out."""

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from data_beam.classify.batched import MeasureInBatches
from data_beam.document import Document
from data_beam.stages.classify import Classify
from maxllm.config.classify import ClassifierConfig


def test_batches_change_nothing(two_heads, labelled):
    config = ClassifierConfig(name="q", model=str(two_heads[0]))
    documents = [Document(str(i), record["text"], "s", "2024") for i, record in enumerate(labelled(80))]
    documents.append(Document("code", "x = 1", "s", "2024", metadata={"content_type": "code"}))
    expected = [Classify([config]).measure(document) for document in documents]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = pipeline | beam.Create(documents) | MeasureInBatches([config])
        assert_that(found | beam.Map(lambda d: str(d.to_json())), equal_to([str(d.to_json()) for d in expected]))
