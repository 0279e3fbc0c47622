"""Near duplicates: documents that share a band of their MinHash signatures, and all connected through such pairs.

Only (band key, age, id) is shuffled, then edges between such names. The oldest document of a component stays. May be
fed the same documents as ExactDuplicates, side by side: the oldest of a component is also the oldest of its copies.
"""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from data_beam.dedup.components import ConnectedComponents, star
from data_beam.dedup.exact import duplicate_drop
from data_beam.dedup.nodes import node_of
from data_beam.dedup.signature import MinHasher
from data_beam.document import Document, Drop
from data_beam.text.signals import signals_of
from maxllm.config.dedup import FuzzyDedupConfig


class _BandKeys(beam.DoFn):
    def __init__(self, config: FuzzyDedupConfig) -> None:
        self.config = config

    def setup(self) -> None:
        self.hasher = MinHasher(self.config)

    def process(self, document: Document) -> Iterator[tuple[bytes, str]]:
        node = node_of(document)
        for key in self.hasher.band_keys(signals_of(document.text).normalised_hashes):
            yield key, node


class FuzzyDuplicates(beam.PTransform):
    """Documents -> (id, Drop) of those in a component with an older one; the drop's value is the id that stays."""

    def __init__(self, config: FuzzyDedupConfig) -> None:
        super().__init__()
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop]]:
        return (
            documents
            | "bands" >> beam.ParDo(_BandKeys(self.config)).with_output_types(tuple[bytes, str])
            | "same band" >> beam.GroupByKey()
            | "stars" >> beam.FlatMap(lambda group: star(group[1])).with_output_types(tuple[str, str])
            | "components" >> ConnectedComponents(self.config.rounds)
            | "drops" >> beam.Map(duplicate_drop, "fuzzy_dedup.near_duplicate")
        )
