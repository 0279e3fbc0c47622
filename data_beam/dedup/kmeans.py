"""Spherical k-means on Beam: the same clusters on any number of workers, bit for bit.

Lloyd 1982, with centres brought back to length one (Dhillon and Modha 2001, "Concept decompositions for large sparse
text data"). Vectors are small integers (embed/fixed.py), so sums and products are exact whatever their order. Beam has
no loops: a fixed number of rounds stands in one job, each a pass over a sample of documents. Clusters only say which
documents are compared, so nothing waits for convergence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isqrt

import apache_beam as beam
import numpy as np
import xxhash

from data_beam.embed.fixed import fixed, pack, products, unpack
from data_beam.verdicts import without_places

# Training on more adds nothing to so many centres; it is also what faiss takes, and with it SemDeDup's own program.
SAMPLE = 256
WORTH_COMPARING = 2000
BATCH = 1024

Vector = tuple[str, bytes]  # node, int16 [d]


def draw(node: str, seed: int) -> int:
    """A random number of 63 bits (Beam's integers have a sign) of this document's own, wherever in a run it lies."""
    return xxhash.xxh3_64_intdigest(without_places(node).encode("utf-8", "surrogatepass"), seed=seed) >> 1


def clusters_for(documents: int, wanted: int | None) -> int:
    """√n, which makes assigning and comparing cost alike; but not so many that clusters of 2,000, a second's work for
    forty of them, are cut up: each cut parts some duplicates."""
    return wanted or max(min(isqrt(documents), documents // WORTH_COMPARING), 1)


def nearest(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the nearest centre's number, of equal ones the first; the dot product with it), both int64 [n]."""
    scores = products(vectors, centres)
    best = scores.argmax(axis=1)
    return best, scores[np.arange(len(best)), best].astype(np.int64)


def _sampled(vector: Vector, documents: int, wanted: int | None, seed: int) -> Iterator[Vector]:
    if draw(vector[0], seed) * documents < SAMPLE * clusters_for(documents, wanted) << 63:
        yield vector


def _slot(vector: Vector, documents: int, wanted: int | None, seed: int) -> tuple[int, tuple[int, bytes]]:
    """A first centre is the vector of lowest draw among those that another draw put into its slot."""
    node, packed = vector
    return draw(node, seed + 1) % clusters_for(documents, wanted), (draw(node, seed), packed)


@beam.typehints.with_input_types(tuple[int, bytes])
class _Stack(beam.CombineFn):
    """(number, int16 [d] as bytes) -> all of them in order of their numbers: (numbers, int16 [n, d])."""

    def create_accumulator(self) -> list:
        return []

    def add_input(self, accumulator: list, item: tuple[int, bytes]) -> list:
        accumulator.append(item)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list]) -> list:
        return [item for accumulator in accumulators for item in accumulator]

    def extract_output(self, accumulator: list) -> tuple[list[int], np.ndarray]:
        accumulator.sort()
        vectors = unpack([packed for _, packed in accumulator]) if accumulator else np.empty((0, 0), np.int16)
        return [number for number, _ in accumulator], vectors


class _Sums(beam.DoFn):
    def process(self, batch: list[Vector], centres: np.ndarray) -> Iterator[tuple[int, bytes]]:
        vectors = unpack([packed for _, packed in batch])
        numbers, _ = nearest(vectors, centres)
        order = numbers.argsort(kind="stable")
        first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        sums = np.add.reduceat(vectors[order].astype(np.int64), first, axis=0)
        for number, total in zip(numbers[order[first]].tolist(), sums, strict=True):
            yield number, total.tobytes()


@beam.typehints.with_input_types(bytes)
@beam.typehints.with_output_types(bytes)
class _Add(beam.CombineFn):
    """Sums of int64 [d]; the last step brings the sum to length one: int16 [d] as bytes."""

    def create_accumulator(self) -> np.ndarray | int:
        return 0

    def add_input(self, accumulator: np.ndarray | int, item: bytes) -> np.ndarray:
        return accumulator + np.frombuffer(item, np.int64)

    def merge_accumulators(self, accumulators: Iterable[np.ndarray | int]) -> np.ndarray | int:
        return sum(accumulators)

    def extract_output(self, accumulator: np.ndarray) -> bytes:
        return pack(fixed(accumulator[None])[0])


def moved(fresh: tuple[list[int], np.ndarray], centres: np.ndarray) -> np.ndarray:
    """A centre that nothing came to, or whose members cancel out, stays where it was."""
    numbers, vectors = fresh
    centres = centres.copy()
    for number, vector in zip(numbers, vectors, strict=True):
        if vector.any():
            centres[number] = vector
    return centres


class KMeans(beam.PTransform):
    """(node, int16 [d] as bytes), none of them zero -> one int16 [k, d]: centres. Fewer than asked for where slots
    were left empty; [0, 0] when there was nothing."""

    def __init__(self, clusters: int | None, rounds: int, seed: int) -> None:
        super().__init__()
        self.clusters, self.rounds, self.seed = clusters, rounds, seed

    def expand(self, vectors: beam.PCollection[Vector]) -> beam.PCollection[np.ndarray]:
        documents = beam.pvalue.AsSingleton(vectors | "count" >> beam.combiners.Count.Globally())
        rule = (documents, self.clusters, self.seed)
        sample = vectors | "sample" >> beam.FlatMap(_sampled, *rule).with_output_types(Vector)
        batches = sample | "batches" >> beam.BatchElements(BATCH, BATCH)
        centres = (
            sample
            | "slots" >> beam.Map(_slot, *rule).with_output_types(tuple[int, tuple[int, bytes]])
            | "first of each" >> beam.CombinePerKey(min)
            | "its vector" >> beam.MapTuple(lambda slot, drawn: (slot, drawn[1])).with_output_types(tuple[int, bytes])
            | "first centres" >> beam.CombineGlobally(_Stack())
            | "as a matrix" >> beam.Map(lambda stacked: stacked[1])
        )
        for number in range(self.rounds):
            before = beam.pvalue.AsSingleton(centres)
            centres = (
                batches
                | f"sums {number}" >> beam.ParDo(_Sums(), before).with_output_types(tuple[int, bytes])
                | f"add {number}" >> beam.CombinePerKey(_Add())
                | f"stack {number}" >> beam.CombineGlobally(_Stack())
                | f"move {number}" >> beam.Map(moved, before)
            )
        return centres
