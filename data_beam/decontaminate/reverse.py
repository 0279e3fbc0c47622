"""The reverse check: which evaluation items occur in a training set. Documents stream through; items are held.

An item is dirty when one document has at least `threshold` of the n-grams of one of its texts, or a shorter text
whole. What was written as clean can be scored by itself, as Brown et al. 2020 (arXiv 2005.14165, appendix C) do.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from data_beam.decontaminate.index import Index, load_index
from data_beam.decontaminate.items import item_files, read_records
from data_beam.decontaminate.spans import spans, word_places
from data_beam.decontaminate.summary import fuller
from data_beam.document import DeadLetter, Document
from data_beam.io import files
from data_beam.io.documents import read_batches
from data_beam.output import make_folder, read_json, write_bytes
from data_beam.progress import count
from data_beam.runner import run
from data_beam.text.signals import signals_of
from maxllm.config.decontaminate import ContaminationConfig, ItemsConfig
from maxllm.config.errors import UserError

logger = logging.getLogger("maxllm.progress")
REPORT = "contamination.json"
SHOWN_FAILURES = 20
READ, DEAD = -1, -2  # keys beside the items' numbers


class FindItems(beam.DoFn):
    """A file of documents -> (item number, where it was found); (READ, documents) and (DEAD, failures) for the file."""

    def __init__(self, config: ItemsConfig) -> None:
        self.config = config

    def setup(self) -> None:
        self.index = load_index(self.config)

    def process(self, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
        read, dead = 0, []
        for batch in read_batches(path):
            if isinstance(batch, DeadLetter):
                dead.append(f"{batch.where}: {batch.error}")
                continue
            read += len(batch)
            count("documents", len(batch))
            for document in batch:
                yield from self._found(document)
        yield READ, {"count": read, "first": []}
        yield DEAD, {"count": len(dead), "first": dead[:SHOWN_FAILURES]}

    def _found(self, document: Document) -> Iterator[tuple[int, dict[str, Any]]]:
        hashes = signals_of(document.text).normalised_hashes
        found = self.index.find(hashes)
        if found is None:
            return
        places: list[tuple[int, int]] | None = None
        for hit in found.hits:
            where: list[Any] = []
            over = hit.fraction >= self.config.threshold
            if over:
                places = word_places(document.text) if places is None else places
                where = spans(document.text, places, self.index.words_found(hashes, hit.number))
            find = {"document": document.id, "source": document.source, "spans": where}
            yield hit.number, {"fraction": hit.fraction, "documents": int(over), **find}


class Fullest(beam.CombineFn):
    """Of each item the document that has most of it; of the counts their sum."""

    def create_accumulator(self) -> dict[str, Any] | None:
        return None

    def add_input(self, accumulator: dict[str, Any] | None, value: dict[str, Any]) -> dict[str, Any]:
        if accumulator is None:
            return value
        if "count" in value:
            first = sorted([*accumulator["first"], *value["first"]])[:SHOWN_FAILURES]
            return {"count": accumulator["count"] + value["count"], "first": first}
        return fuller(accumulator, value)

    def merge_accumulators(self, accumulators: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
        merged = None
        for accumulator in accumulators:
            if accumulator is not None:
                merged = self.add_input(merged, accumulator)
        return merged

    def extract_output(self, accumulator: dict[str, Any] | None) -> dict[str, Any] | None:
        return accumulator


def contamination(config: ContaminationConfig, beam_args: Sequence[str] = ()) -> dict[str, Any]:
    """Writes OUT/contamination.json, OUT/clean/BENCHMARK.jsonl and OUT/dirty/BENCHMARK.jsonl; gives the first.

    `config.items.tasks` have become files before (`data_beam.decontaminate.tasks`). Raises UserError.
    """
    if not config.documents:
        raise UserError("documents is empty; name the curated files, e.g. documents=['runs/documents/documents/*']")
    if not config.items.paths:
        raise UserError("items.paths is empty; name the evaluation items, e.g. items.paths=['eval/*.jsonl.gz']")
    try:
        paths = [file.path for file in files.matching(config.documents)]
    except UserError as error:
        raise UserError(str(error).replace("inputs:", "documents:", 1)) from error
    index = load_index(config.items)
    make_folder(config.output)
    results = FileSystems.join(config.output, f"found-{uuid.uuid4().hex}.json")

    def build(root: beam.Pipeline) -> beam.PCollection:
        return (
            root
            | "Files" >> beam.Create(paths, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Find" >> beam.ParDo(FindItems(config.items)).with_output_types(tuple[int, dict[str, Any]])
            | "Fullest" >> beam.CombinePerKey(Fullest())
            | "All" >> beam.combiners.ToList()
            | "Write" >> beam.Map(lambda found: write_bytes(results, json.dumps(dict(found)).encode()))
        )

    run(build, beam_args)
    found = {int(number): find for number, find in read_json(results).items()}
    FileSystems.delete([results])
    report = write_report(config, index, found)
    for line in lines(report):
        logger.info("%s", line)
    return report


def write_report(config: ContaminationConfig, index: Index, found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """`found`: by item number, and the counts under READ and DEAD."""
    read, dead = found.pop(READ), found.pop(DEAD)
    texts: dict[tuple[str, int], list[dict[str, Any]]] = {}  # (benchmark, line) -> its texts that were looked for
    for number, name in enumerate(index.names):
        benchmark, line, key = name.rsplit(":", 2)
        find = found.get(number, {"fraction": 0.0, "documents": 0})
        texts.setdefault((benchmark, int(line)), []).append({"key": key, **find})
    benchmarks, dirty_items = {}, []
    for benchmark, path in item_files(config.items.paths).items():
        lists: dict[str, list[bytes]] = {"clean": [], "dirty": []}
        unchecked, largest = 0, 0.0
        for line, record in read_records(path):
            finds = texts.get((benchmark, line))
            if finds is None:
                unchecked += 1
                continue
            best = max(finds, key=lambda find: find["fraction"])
            largest = max(largest, best["fraction"])
            dirty = best["fraction"] >= config.items.threshold
            own = record.get("record") if isinstance(record.get("record"), dict) else record
            lists["dirty" if dirty else "clean"].append(json.dumps(own, ensure_ascii=False).encode("utf-8", "replace"))
            if dirty:
                dirty_items.append({"benchmark": benchmark, "line": line, **best})
        names = {}
        for name, records in lists.items():
            names[name] = FileSystems.join(config.output, name, *f"{benchmark}.jsonl".split("/"))
            make_folder(names[name].rsplit("/", 1)[0])
            write_bytes(names[name], b"".join(record + b"\n" for record in records))
        checked = len(lists["clean"]) + len(lists["dirty"])
        benchmarks[benchmark] = {
            "items": checked + unchecked,
            "too_short": unchecked,
            "dirty": len(lists["dirty"]),
            "share": len(lists["dirty"]) / checked if checked else 0.0,
            "max_fraction": largest,
            "files": names,
        }
    report = {
        "documents": read["count"],
        "failed": dead,
        "config": config.model_dump(mode="json"),
        "benchmarks": benchmarks,
        "dirty": dirty_items,
    }
    write_bytes(
        FileSystems.join(config.output, REPORT),
        json.dumps(report, indent=1, ensure_ascii=False).encode("utf-8", "replace"),
    )
    return report


def lines(report: dict[str, Any]) -> list[str]:
    """The report as a short table."""
    out = [f"  {'benchmark':<28} {'items':>7} {'too short':>10} {'dirty':>7} {'share':>8} {'fullest':>8}"]
    for name, row in report["benchmarks"].items():
        out.append(
            f"  {name:<28} {row['items']:>7,} {row['too_short']:>10,} {row['dirty']:>7,} "
            f"{100 * row['share']:>7.2f}% {row['max_fraction']:>8.2f}"
        )
    if report["failed"]["count"]:
        out.append(f"  {report['failed']['count']:,} records could not be read: {report['failed']['first'][0]}")
    return out
