"""Near duplicates: documents that share a band of their MinHash signatures, and all connected through such pairs.

Only (band key, age, id) is shuffled, then edges between such names. The oldest document of a component stays. May be
fed the same documents as ExactDuplicates, side by side: the oldest of a component is also the oldest of its copies.
"""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from data_beam.dedup.components import ConnectedComponents
from data_beam.dedup.exact import Drops
from data_beam.dedup.groups import Pair, Smallest
from data_beam.dedup.nodes import node
from data_beam.dedup.signature import MinHasher
from data_beam.document import Document, Drop
from data_beam.text.signals import signals_of
from maxllm.config.dedup import FuzzyDedupConfig

REASON = "fuzzy_dedup.near_duplicate"
ONE_JOB_ROUNDS = 4


class _BandKeys(beam.DoFn):
    def __init__(self, config: FuzzyDedupConfig) -> None:
        self.config = config

    def setup(self) -> None:
        self.hasher = MinHasher(self.config)

    def process(self, document: Document) -> Iterator[Pair]:
        name = node(document)
        for key in self.hasher.band_keys(self.hasher.hashes(signals_of(document.text))):
            yield key, name


class BandKeys(beam.PTransform):
    """Documents -> (key of a band, document's node)"""

    def __init__(self, config: FuzzyDedupConfig) -> None:
        super().__init__()
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[Pair]:
        return documents | "bands" >> beam.ParDo(_BandKeys(self.config)).with_output_types(Pair)


class FuzzyDuplicates(beam.PTransform):
    """Documents -> (id, Drop) of those in a component with an older one, in one job.

    Its run fails where chains of near duplicates are too long for that; data_beam/dedup/driver.py has no such limit.
    """

    def __init__(self, config: FuzzyDedupConfig) -> None:
        super().__init__()
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop]]:
        return (
            documents
            | "bands" >> BandKeys(self.config)
            | "same band" >> Smallest()
            | "components" >> ConnectedComponents(ONE_JOB_ROUNDS)
            | "drops" >> Drops(REASON)
        )
