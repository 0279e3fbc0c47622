"""Exact duplicates: the same text but for white space. Only (hash, age, id) is shuffled."""

from __future__ import annotations

import apache_beam as beam
import xxhash

from data_beam.dedup.groups import Pair, Smallest
from data_beam.dedup.nodes import is_old, node, unpacked_id
from data_beam.document import Document, Drop


def fingerprint(text: str) -> bytes:
    """128-bit xxh3 of the text with each run of white space made one space, and none at its ends.

    So line endings, indentation and trailing blanks make no difference, case and punctuation do.
    """
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode("utf-8", "surrogatepass"))


def _keyed(document: Document) -> Pair:
    return fingerprint(document.text), node(document)


class Fingerprints(beam.PTransform):
    """Documents -> (hash of the text, document's node)"""

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[Pair]:
        return documents | "fingerprints" >> beam.Map(_keyed).with_output_types(Pair)


class Drops(beam.PTransform):
    """(node, node that stays) -> (id, Drop); its value is the id that stays. Nodes of older sets are left out."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def expand(self, pairs: beam.PCollection[Pair]) -> beam.PCollection[tuple[str, Drop]]:
        return (
            pairs
            | "of this run" >> beam.Filter(lambda pair: not is_old(pair[0]))
            | "drops" >> beam.Map(lambda pair: (unpacked_id(pair[0]), Drop(self.reason, unpacked_id(pair[1]))))
        )


class ExactDuplicates(beam.PTransform):
    """Documents -> (id, Drop) of those that have an older document with the same text."""

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop]]:
        return (
            documents
            | "fingerprints" >> Fingerprints()
            | "same text" >> Smallest()
            | "drops" >> Drops("exact_dedup.duplicate")
        )
