"""The numbers of a run, summed over its outputs in parallel: what was kept, what was dropped and why, what failed."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

import apache_beam as beam
import xxhash

from data_beam.document import DeadLetter, Document, Rejected
from data_beam.pii import mask
from data_beam.select.age import year_of

SAMPLES = 3  # per reason
SAMPLE_CHARACTERS = 400

Accumulator = dict[str, Any]


class Summarise(beam.CombineFn):
    """(Document | Rejected | DeadLetter) -> the counts of `create_accumulator`. Order and grouping change nothing.

    `masked`: samples are shown without personal information, also of documents that went before they were masked.
    """

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked

    def create_accumulator(self) -> Accumulator:
        return {
            "kept": Counter(),  # source -> documents
            "bytes": Counter(),  # source -> UTF-8 bytes of kept text
            "dropped": Counter(),  # reason -> documents
            "dead": Counter(),  # stage -> dead letters
            "languages": Counter(),  # of kept documents
            "years": Counter(),  # of kept documents: the year of created, else of added
            "lengths": Counter(),  # floor(log2(characters)) of kept documents
            "samples": {},  # reason -> [(hash, sample)], the lowest hashes
        }

    def add_input(self, accumulator: Accumulator, outcome: Document | Rejected | DeadLetter) -> Accumulator:
        if isinstance(outcome, Document):
            self._kept(accumulator, outcome)
        elif isinstance(outcome, Rejected):
            document, drop = outcome.document, outcome.drop
            accumulator["dropped"][drop.reason] += 1
            name = document.metadata.get("url") or document.metadata.get("path") or document.metadata.get("module")
            where, text = self._shown(str(name or document.id)), self._shown(document.text)
            sample = {"id": document.id, "where": where, "value": drop.value, "text": text}
            _sample(accumulator, drop.reason, document.id, sample)
        else:
            accumulator["dead"][outcome.stage] += 1
            shown = {"where": self._shown(outcome.where), "text": self._shown(outcome.error)}
            sample = {"id": "", "value": None, **shown}
            _sample(accumulator, f"dead: {outcome.stage}", outcome.where, sample)
        return accumulator

    def _shown(self, text: str) -> str:
        text = text[: 4 * SAMPLE_CHARACTERS]
        return (mask(text)[0] if self.masked else text)[:SAMPLE_CHARACTERS]

    def _kept(self, accumulator: Accumulator, document: Document) -> None:
        accumulator["kept"][document.source] += 1
        accumulator["bytes"][document.source] += len(document.text.encode("utf-8", "replace"))
        metadata = document.metadata
        language = metadata.get("language") or metadata.get("programming_language") or "unknown"
        accumulator["languages"][str(language)] += 1
        accumulator["years"][year_of(document)] += 1
        accumulator["lengths"][max(0, len(document.text).bit_length() - 1)] += 1

    def merge_accumulators(self, accumulators: Any) -> Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            for name, counts in accumulator.items():
                if name == "samples":
                    for reason, samples in counts.items():
                        for key, sample in samples:
                            _sample(merged, reason, key, sample)
                else:
                    merged[name].update(counts)
        return merged

    def extract_output(self, accumulator: Accumulator) -> dict[str, Any]:
        """JSON's types only, keys sorted."""
        output: dict[str, Any] = {
            name: {str(key): counts[key] for key in sorted(counts)}
            for name, counts in accumulator.items()
            if name != "samples"
        }
        output["samples"] = {
            reason: [sample for _, sample in samples] for reason, samples in sorted(accumulator["samples"].items())
        }
        return output


class SummarisePart(Summarise):
    """Of one collection among several: the accumulator itself, for `MergeSummaries`."""

    def extract_output(self, accumulator: Accumulator) -> Accumulator:
        return accumulator


class MergeSummaries(Summarise):
    """Accumulators -> what `Summarise` says of everything that went into them."""

    def add_input(self, accumulator: Accumulator, part: Accumulator) -> Accumulator:
        return self.merge_accumulators([accumulator, part])


def _sample(accumulator: Accumulator, reason: str, key: str, sample: dict[str, Any]) -> None:
    """Keeps the samples whose key hashes lowest: the same ones whatever the order."""
    ranked = accumulator["samples"].setdefault(reason, [])
    ranked.append((key, sample))
    if len(ranked) > SAMPLES:
        accumulator["samples"][reason] = heapq.nsmallest(SAMPLES, ranked, key=_rank)


def _rank(item: tuple[str, Any]) -> int:
    return xxhash.xxh3_64_intdigest(item[0].encode("utf-8", "surrogateescape"))


def merged(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The summaries of several phases as one: each outcome is in one of them."""
    total: dict[str, Any] = {}
    for output in outputs:
        for name, counts in output.items():
            here = total.setdefault(name, {})
            for key, value in counts.items():
                here[key] = (here[key] + value) if key in here else value
    total["samples"] = {reason: samples[:SAMPLES] for reason, samples in sorted(total["samples"].items())}
    return total


def assert_conserved(read: int, summary: dict[str, Any]) -> None:
    """in = kept + dropped + dead. Raises RuntimeError."""
    kept, dropped, dead = (sum(summary[name].values()) for name in ("kept", "dropped", "dead"))
    if read != kept + dropped + dead:
        raise RuntimeError(
            f"{read} documents were read, but {kept} kept + {dropped} dropped + {dead} dead "
            f"= {kept + dropped + dead}: documents were lost or repeated, so the output was not put in place"
        )
