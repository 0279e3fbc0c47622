"""How many bytes a job shuffles: what goes into each GroupByKey, encoded as Beam would send it."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.pipeline import PipelineVisitor

NAME = "shuffled_bytes"


class _Size(beam.DoFn):
    def __init__(self, coder: beam.coders.Coder) -> None:
        self.coder = coder
        self.counter = Metrics.counter("data_beam", NAME)

    def process(self, element: Any) -> None:
        self.counter.inc(len(self.coder.encode(element)))


class _Groupings(PipelineVisitor):
    def __init__(self) -> None:
        self.inputs: list[beam.PCollection] = []

    def enter_composite_transform(self, node: Any) -> None:
        self.visit_transform(node)

    def visit_transform(self, node: Any) -> None:
        if isinstance(node.transform, beam.GroupByKey):
            self.inputs += node.inputs


def count_shuffled(pipeline: beam.Pipeline) -> None:
    """Makes the pipeline count. What combiners add up before sending is counted as if it were sent."""
    found = _Groupings()
    pipeline.visit(found)
    for number, collection in enumerate(found.inputs):
        coder = beam.coders.registry.get_coder(collection.element_type)
        collection | f"size of what is grouped {number}" >> beam.ParDo(_Size(coder))


def shuffled_bytes(result: Any) -> int:
    return sum(each.result for each in result.metrics().query(MetricsFilter().with_name(NAME))["counters"])
