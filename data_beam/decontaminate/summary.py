"""What decontamination found in a run, per benchmark: summed over the rejected documents, then written down."""

from __future__ import annotations

from collections import Counter
from typing import Any

import apache_beam as beam

from data_beam.decontaminate.index import Index
from data_beam.document import Rejected

KEY = "contamination"
Accumulator = dict[str, Any]


def benchmark_of(item: str) -> str:
    return item.rsplit(":", 2)[0]


class SummariseContamination(beam.CombineFn):
    """Rejected documents -> {documents: {benchmark: dropped}, items: {item: its fullest find}}.

    Bounded by the number of items, not of documents. Order and grouping change nothing.
    """

    def create_accumulator(self) -> Accumulator:
        return {"documents": Counter(), "items": {}}

    def add_input(self, accumulator: Accumulator, outcome: Any) -> Accumulator:
        if isinstance(outcome, Rejected) and outcome.drop.reason.startswith("decontamination."):
            document = outcome.document
            items = document.metadata.get(KEY, [])
            accumulator["documents"].update({benchmark_of(item["item"]) for item in items})
            for item in items:
                find = {"fraction": item["fraction"], "documents": 1, "document": document.id, "spans": item["spans"]}
                _keep(accumulator["items"], item["item"], find)
        return accumulator

    def merge_accumulators(self, accumulators: Any) -> Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged["documents"].update(accumulator["documents"])
            for name, find in accumulator["items"].items():
                _keep(merged["items"], name, find)
        return merged

    def extract_output(self, accumulator: Accumulator) -> dict[str, Any]:
        """JSON's types only, keys sorted."""
        return {
            "documents": {name: accumulator["documents"][name] for name in sorted(accumulator["documents"])},
            "items": {name: accumulator["items"][name] for name in sorted(accumulator["items"])},
        }


def _keep(items: dict[str, dict[str, Any]], name: str, find: dict[str, Any]) -> None:
    items[name] = fuller(items[name], find) if name in items else find


def fuller(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The find with more of the item, of equals the one with the lower id; how many documents is both's."""
    best = min(a, b, key=lambda find: (-find["fraction"], find["document"]))
    return {**best, "documents": a["documents"] + b["documents"]}


def report(summary: dict[str, Any], index: Index) -> dict[str, Any]:
    """`contamination.json`: a row for each benchmark, its items that were found with their fullest finds."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in index.lines}
    for name, find in summary["items"].items():
        found[benchmark_of(name)].append({"item": name, **find})
    benchmarks = {}
    for name, finds in sorted(found.items()):
        finds.sort(key=lambda find: (-find["fraction"], find["item"]))
        benchmarks[name] = {
            "items": index.lines[name],
            "texts": index.texts[name],
            "too_short": index.too_short[name],
            "items_found": len({find["item"].rsplit(":", 1)[0] for find in finds}),
            "documents_dropped": summary["documents"].get(name, 0),
            "max_fraction": max((find["fraction"] for find in finds), default=0.0),
            "found": finds,
        }
    return {"benchmarks": benchmarks}
