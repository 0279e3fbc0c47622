"""Documents that mean the same: SemDeDup (Abbas et al. 2023, arXiv 2303.09540) on Beam.

Embed, cluster by k-means, and within a cluster, in order of preference, drop a document whose cosine with any one
before it is over 1 - eps, whether that one stays or not (as the authors' program does, semdedup.py). Embeddings are
computed once. Shuffled are ages, ids and vectors of 2 bytes a dimension, never text.

A cluster of m documents takes 6 m d bytes and m² d multiplications on one worker. One above `max_cluster` is split
among some of its own members, nearest first, and what is still above by hash; pairs parted so are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import apache_beam as beam
import numpy as np

from data_beam.dedup.kmeans import KMeans, Vector, draw, nearest
from data_beam.dedup.nodes import id_of, node_of
from data_beam.document import Document, Drop
from data_beam.embed import encoder
from data_beam.embed.fixed import fixed, inverse_lengths, pack, unpack
from maxllm.config.dedup_text import SemanticDedupConfig

REASON = "semantic_dedup.near_meaning"
# Documents a block of the similarity matrix has as columns: m x 256 float32 at a time.
_BLOCK = 256
# Texts an encoder is given at once.
_TEXTS = 32

Member = tuple[str, int, bytes]  # node, dot product with the cluster's centre, vector


class _Embed(beam.DoFn):
    def __init__(self, config: SemanticDedupConfig) -> None:
        self.config = config

    def setup(self) -> None:
        self.encode = encoder.load(self.config.encoder, self.config.model)

    def process(self, documents: list[Document]) -> Iterator[Vector]:
        vectors = self.encode([document.text for document in documents])
        vectors = fixed(encoder.checked(vectors, len(documents), self.config.encoder))
        for document, vector in zip(documents, vectors, strict=True):
            if document.text.strip() and vector.any():  # a text without a word is nobody's duplicate
                yield node_of(document), pack(vector)


class Embed(beam.PTransform):
    """Documents -> (node, vector). Behind a shuffle, so that everything that reads them finds them computed."""

    def __init__(self, config: SemanticDedupConfig) -> None:
        super().__init__()
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[Vector]:
        return (
            documents
            | "batches" >> beam.BatchElements(_TEXTS, _TEXTS)
            | "encode" >> beam.ParDo(_Embed(self.config)).with_output_types(Vector)
            | "once" >> beam.Reshuffle()
        )


class _Assign(beam.DoFn):
    def process(self, batch: list[Vector], centres: np.ndarray) -> Iterator[tuple[int, Member]]:
        numbers, similarities = nearest(unpack([packed for _, packed in batch]), centres)
        for (node, packed), number, similarity in zip(batch, numbers.tolist(), similarities.tolist(), strict=True):
            yield number, (node, similarity, packed)


class _Settle(beam.DoFn):
    """From a cluster: its drops, when it is small enough; else its members again, by smaller clusters."""

    SPLIT = "split"

    def __init__(self, config: SemanticDedupConfig, split_by: str | None) -> None:
        self.config, self.split_by = config, split_by

    def process(self, cluster: tuple[str, Iterable[Member]]) -> Iterator[tuple[str, Drop] | beam.pvalue.TaggedOutput]:
        name, members = cluster
        most = self.config.max_cluster if self.split_by else None
        held = list(members if most is None else islice(members, most + 1))
        if most is None or len(held) <= most:
            yield from duplicates(held, self.config)
            return
        for part, member in self._parts(members):
            yield beam.pvalue.TaggedOutput(self.SPLIT, (f"{name}.{part}", member))

    def _parts(self, members: Iterable[Member]) -> Iterator[tuple[int, Member]]:
        """Walks the cluster again and again, holding little of it. Aims at half of what is allowed."""
        parts = -(-2 * sum(1 for _ in members) // self.config.max_cluster)
        if self.split_by == "hash":
            yield from ((draw(member[0], self.config.seed + 2) % parts, member) for member in members)
            return
        leaders: list[tuple[int, Member]] = []
        for member in members:
            leaders.append((draw(member[0], self.config.seed + 2), member))
            if len(leaders) >= 2 * parts:
                leaders = sorted(leaders)[:parts]
        centres = unpack([packed for _, (_, _, packed) in sorted(leaders)[:parts]])
        rest = iter(members)
        while batch := list(islice(rest, 1024)):
            numbers, _ = nearest(unpack([packed for _, _, packed in batch]), centres)
            yield from zip(numbers.tolist(), batch, strict=True)


def in_order(members: Iterable[Member], keep: str) -> list[Member]:
    """The one to keep first."""
    if keep == "oldest":
        return sorted(members)
    sign = 1 if keep == "hard" else -1
    return sorted(members, key=lambda member: (sign * member[1], member[0]))


def closest_before(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row (its largest cosine with a row before it, that row's number, the first of equals).

    int16 [m, d] -> float32 [m], int64 [m]; for row 0 the cosine is -2.
    """
    scales, numbers = inverse_lengths(vectors), vectors.astype(np.float32)
    best, which = np.full(len(vectors), -2, np.float32), np.zeros(len(vectors), np.int64)
    for low in range(0, len(vectors), _BLOCK):
        high = min(low + _BLOCK, len(vectors))
        cosines = numbers[:high] @ numbers[low:high].T  # exact, as fixed.products says
        cosines *= scales[:high, None]
        cosines *= scales[None, low:high]
        cosines[low:high][np.tril_indices(high - low)] = -2
        which[low:high] = cosines.argmax(axis=0)
        best[low:high] = cosines[which[low:high], np.arange(high - low)]
    return best, which


def duplicates(members: Iterable[Member], config: SemanticDedupConfig) -> Iterator[tuple[str, Drop]]:
    """(id, why it goes). Drop.value: the id of the closest one before it, and their cosine."""
    ordered = in_order(members, config.keep)
    if len(ordered) < 2:
        return
    best, which = closest_before(unpack([packed for _, _, packed in ordered]))
    for place in np.flatnonzero(best > 1 - config.eps).tolist():
        closest = id_of(ordered[int(which[place])][0])
        yield id_of(ordered[place][0]), Drop(REASON, f"{closest} {best[place]:.3f}")


class SemanticDuplicates(beam.PTransform):
    """Documents -> (id, Drop) of those that mean the same as one that is preferred."""

    def __init__(self, config: SemanticDedupConfig) -> None:
        super().__init__()
        encoder.check(config.encoder, config.model)
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop]]:
        config = self.config
        vectors = documents | "embed" >> Embed(config)
        centres = vectors | "k-means" >> KMeans(config.clusters, config.iterations, config.seed)
        clusters = (
            vectors
            | "batches" >> beam.BatchElements(1024, 1024)
            | "assign" >> beam.ParDo(_Assign(), beam.pvalue.AsSingleton(centres))
            | "names" >> beam.MapTuple(lambda number, member: (str(number), member))
        )
        drops = []
        for step, split_by in (("clusters", "leaders"), ("parts of clusters", "hash"), ("parts by hash", None)):
            settled = (
                clusters
                | f"typed {step}" >> beam.Map(tuple).with_output_types(tuple[str, Member])
                | step >> beam.GroupByKey()
                | f"settle {step}" >> beam.ParDo(_Settle(config, split_by)).with_outputs(_Settle.SPLIT, main="drops")
            )
            drops.append(settled.drops)
            clusters = settled[_Settle.SPLIT]
        return drops | beam.Flatten()
