"""Exact duplicates: the same text but for white space. Only (hash, age, id) is shuffled."""

from __future__ import annotations

import apache_beam as beam
import xxhash

from data_beam.dedup.components import star
from data_beam.dedup.nodes import id_of, node_of
from data_beam.document import Document, Drop


def fingerprint(text: str) -> bytes:
    """128-bit xxh3 of the text with each run of white space made one space, and none at its ends.

    So line endings, indentation and trailing blanks make no difference, case and punctuation do.
    """
    return xxhash.xxh3_128_digest(" ".join(text.split()).encode("utf-8", "surrogatepass"))


def _keyed(document: Document) -> tuple[bytes, str]:
    return fingerprint(document.text), node_of(document)


def duplicate_drop(pair: tuple[str, str], reason: str) -> tuple[str, Drop]:
    """(node, node that stays) -> (id, why it goes)"""
    return id_of(pair[0]), Drop(reason, id_of(pair[1]))


class ExactDuplicates(beam.PTransform):
    """Documents -> (id, Drop) of those that have an older document with the same text; the drop's value is its id."""

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop]]:
        return (
            documents
            | "fingerprints" >> beam.Map(_keyed).with_output_types(tuple[bytes, str])
            | "same text" >> beam.GroupByKey()
            | "newer ones" >> beam.FlatMap(lambda group: star(group[1])).with_output_types(tuple[str, str])
            | "drops" >> beam.Map(duplicate_drop, "exact_dedup.duplicate")
        )
