"""Exact quantiles of scores, per key, in two counting passes: the same on any number of workers.

A float32's bits, made to sort as the float does, are counted by their upper 16 bits; then, inside the one bin that
holds a quantile, by their lower 16. At most 65,536 counts a key travel in either pass, whatever the number of scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np

Counts = dict[int, int]


def sortable(score: float) -> int:
    """uint32 in the order of the float32 that is nearest to the score. NaN sorts above everything."""
    value = np.float32(score)
    bits = int((np.float32("nan") if np.isnan(value) else value + np.float32(0)).view(np.uint32))
    return bits ^ 0xFFFFFFFF if bits >> 31 else bits | 0x80000000


def unsorted(bits: int) -> float:
    """The float32 of a sortable number."""
    bits = bits & 0x7FFFFFFF if bits >> 31 else bits ^ 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def place(counts: Counts, rank: int) -> tuple[int, int]:
    """(the bin that holds the item of this rank, from 0; its rank inside that bin)"""
    for name in sorted(counts):
        if rank < counts[name]:
            return name, rank
        rank -= counts[name]
    raise ValueError("rank is beyond the last item")


class _Add(beam.CombineFn):
    def create_accumulator(self) -> Counter:
        return Counter()

    def add_input(self, accumulator: Counter, name: int) -> Counter:
        accumulator[name] += 1
        return accumulator

    def merge_accumulators(self, accumulators) -> Counter:
        total: Counter = Counter()
        for accumulator in accumulators:
            total.update(accumulator)
        return total

    def extract_output(self, accumulator: Counter) -> Counts:
        return dict(accumulator)


class Quantiles(beam.PTransform):
    """(key, score) -> (key, one score for each fraction): the item of rank min(floor(fraction * n), n - 1).

    Of n scores, at most fraction * n lie strictly below the result, and at least (1 - fraction) * n at or above it.
    """

    def __init__(self, fractions: Sequence[float]) -> None:
        super().__init__()
        self.fractions = list(fractions)

    def expand(self, scores: beam.PCollection[tuple[str, float]]) -> beam.PCollection[tuple[str, list[float]]]:
        bits = scores | "bits" >> beam.MapTuple(lambda key, score: (key, sortable(score))).with_output_types(
            tuple[str, int]
        )
        upper = (
            bits
            | "upper" >> beam.MapTuple(lambda key, number: (key, number >> 16)).with_output_types(tuple[str, int])
            | "count upper" >> beam.CombinePerKey(_Add()).with_hot_key_fanout(16)
        )
        wanted = upper | "bins" >> beam.MapTuple(self._bins)
        lower = (
            bits
            | "inside"
            >> beam.FlatMap(_inside, beam.pvalue.AsDict(wanted)).with_output_types(tuple[tuple[str, int], int])
            | "count lower" >> beam.CombinePerKey(_Add()).with_hot_key_fanout(16)
            | "by key" >> beam.MapTuple(lambda key, counts: (key[0], (key[1], counts)))
        )
        return (
            {"wanted": wanted, "lower": lower}
            | "together" >> beam.CoGroupByKey()
            | "quantiles" >> beam.MapTuple(_answer)
        )

    def _bins(self, key: str, counts: Counts) -> tuple[str, list[tuple[int, int]]]:
        total = sum(counts.values())
        return key, [place(counts, min(int(fraction * total), total - 1)) for fraction in self.fractions]


def _inside(item: tuple[str, int], wanted: dict[str, list[tuple[int, int]]]) -> Iterator[tuple[tuple[str, int], int]]:
    key, number = item
    if any(number >> 16 == name for name, _ in wanted[key]):
        yield (key, number >> 16), number & 0xFFFF


def _answer(key: str, group: dict[str, list]) -> tuple[str, list[float]]:
    lower = dict(group["lower"])
    return key, [unsorted(name << 16 | place(lower[name], rank)[0]) for name, rank in group["wanted"][0]]
