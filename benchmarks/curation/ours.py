"""Our side: FOLDER/documents.jsonl and spacy_words.json in, FOLDER/ours.json out."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_beam.dedup.minhash import FuzzyDuplicates
from data_beam.dedup.nodes import id_of, node_of, smallest_reachable
from data_beam.dedup.signature import MinHasher
from data_beam.document import Document
from data_beam.pipeline import curate
from data_beam.stages.quality import Quality
from data_beam.stages.rules.c4 import c4_lines, c4_page
from data_beam.stages.rules.fineweb import fineweb_quality
from data_beam.stages.rules.gopher import gopher_quality, gopher_repetition
from data_beam.stages.rules.lines import without_lines
from data_beam.text.signals import Signals
from data_beam.text.words import word_hashes
from maxllm.config.curate import CurateConfig
from maxllm.config.dedup import FuzzyDedupConfig
from maxllm.config.rules import QualityConfig

FOLDER = Path(sys.argv[1])
QUALITY, FUZZY = QualityConfig(), FuzzyDedupConfig()
RULES: dict[str, Callable[[Signals], Any]] = {
    "gopher quality": lambda signals: gopher_quality(signals, QUALITY.gopher),
    "gopher repetition": lambda signals: gopher_repetition(signals, QUALITY.repetition),
    "c4 quality": lambda signals: c4_page(c4_lines(signals, QUALITY.c4), QUALITY.c4),
    "fineweb quality": lambda signals: fineweb_quality(signals, QUALITY.fineweb),
}
DOCUMENTS: list[Document] = []
KEPT: dict[str, list[str]] = {}
CLUSTERS: dict[str, dict[str, str]] = {}


def cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = cpu()
    result = function()
    return cpu() - start, result


def rules(suffix: str = "", words: list[list[str]] | None = None) -> dict[str, float]:
    """Each rule set on signals of its own, so that none profits from another's, and all in one pass."""
    given: list[Any] = words or [None] * len(DOCUMENTS)
    seconds = {}
    for name, rule in RULES.items():

        def keep(rule: Callable[[Signals], Any] = rule) -> list[str]:
            pairs = zip(DOCUMENTS, given, strict=True)
            return [document.id for document, each in pairs if rule(Signals(document.text, each)) is None]

        seconds[name + suffix], KEPT[name + suffix] = timed(keep)
    if words is None:
        quality = Quality(QUALITY)
        seconds["all rules"], KEPT["all rules"] = timed(
            lambda: [document.id for document in DOCUMENTS if isinstance(quality(document), Document)]
        )
    else:
        pairs = list(zip(DOCUMENTS, words, strict=True))
        seconds["all rules" + suffix], KEPT["all rules" + suffix] = timed(
            lambda: [document.id for document, each in pairs if _chain(Signals(document.text, each))]
        )
    return seconds


def _chain(signals: Signals) -> bool:
    """What Quality does, with the first text's words given; a text that C4 changed is split by white space again."""
    if gopher_quality(signals, QUALITY.gopher) or gopher_repetition(signals, QUALITY.repetition):
        return False
    lines = c4_lines(signals, QUALITY.c4)
    if c4_page(lines, QUALITY.c4):
        return False
    if lines != signals.lines:
        signals = Signals(without_lines(signals.text, lines))
    return fineweb_quality(signals, QUALITY.fineweb) is None


def dedup(suffix: str = "", words: list[list[str]] | None = None) -> dict[str, float]:
    hasher = MinHasher(FUZZY)

    def signatures() -> list[list[bytes]]:
        if words is None:
            return [hasher.band_keys(Signals(document.text).normalised_hashes) for document in DOCUMENTS]
        return [hasher.band_keys(word_hashes(each)) for each in words]

    def clusters(signed: list[list[bytes]]) -> dict[str, str]:
        buckets = defaultdict(list)
        for document, keys in zip(DOCUMENTS, signed, strict=True):
            node = node_of(document)
            for key in keys:
                buckets[key].append(node)
        return smallest_reachable(edge for nodes in buckets.values() for edge in zip(nodes, nodes[1:], strict=False))

    seconds = {}
    seconds["minhash signatures" + suffix], signed = timed(signatures)
    seconds["minhash buckets and clusters" + suffix], lowest = timed(lambda: clusters(signed))
    CLUSTERS["clusters" + suffix] = {id_of(node): id_of(low) for node, low in lowest.items()}
    removed = {id_of(node) for node, low in lowest.items() if node != low}
    KEPT["dedup" + suffix] = [document.id for document in DOCUMENTS if document.id not in removed]
    return seconds


def expected_recall(pairs: list[list[str]], shingles: dict[str, np.ndarray]) -> float:
    """Mean over pairs of the chance to share a band, 1 - (1 - s^8)^14, s the similarity of their sets of shingles."""
    sets = {name: set(each.tolist()) for name, each in shingles.items()}
    similarities = [len(sets[a] & sets[b]) / max(len(sets[a] | sets[b]), 1) for a, b in pairs]
    return float(np.mean([1 - (1 - s**8) ** 14 for s in similarities]))


def bands_by_seed() -> tuple[float, list[dict[str, list[str]]]]:
    """The expected recall, and for other draws of the hash functions the band keys of documents in planted pairs."""
    pairs = json.loads((FOLDER / "planted.json").read_text())
    wanted = {name for pair in pairs for name in pair}
    hashes = {each.id: Signals(each.text).normalised_hashes for each in DOCUMENTS if each.id in wanted}
    hashers = [MinHasher(FUZZY.model_copy(update={"seed": seed})) for seed in range(1, 11)]
    drawn = [{id: [key.hex() for key in hasher.band_keys(each)] for id, each in hashes.items()} for hasher in hashers]
    return expected_recall(pairs, {id: hashers[0].shingles(each) for id, each in hashes.items()}), drawn


def read(path: str) -> Iterator[Document]:
    with open(path, encoding="utf-8") as stream:
        yield from (Document.from_json(json.loads(line)) for line in stream)


def dedup_on_beam() -> dict[str, float]:
    """The same stage as pipelines run it; the verdicts must be those of the plain functions."""
    out = FOLDER / "beam_drops"

    def run() -> None:
        pipeline = beam.Pipeline(runner=FnApiRunner())
        documents = pipeline | beam.Create([str(FOLDER / "documents.jsonl")]) | "read" >> beam.FlatMap(read)
        drops = documents | FuzzyDuplicates(FUZZY)
        drops | beam.MapTuple(lambda id, drop: f"{id} {drop.value}") | beam.io.WriteToText(str(out))
        pipeline.run().wait_until_finish()

    seconds, _ = timed(run)
    drops = dict(line.split(" ") for path in FOLDER.glob("beam_drops*") for line in path.read_text().splitlines())
    expected = {id: low for id, low in CLUSTERS["clusters"].items() if id != low}
    assert drops == expected, "Beam and the plain functions disagree"
    return {"dedup on beam": seconds}


def pipeline() -> dict[str, float]:
    """`maxllm curate` as a whole: read, rules, dedup, join, outputs, rejects and report."""
    off = {"enabled": False}
    config = CurateConfig.model_validate(
        {
            "inputs": [{"format": "jsonl", "paths": [str(FOLDER / "documents.jsonl")]}],
            "output": {"path": str(FOLDER / "ours"), "format": "jsonl.gz"},
            "url": off,
            "extract": off,
            "language": off,
            "code": off,
            "exact_dedup": off,
            "decontamination": off,
        }
    )
    seconds, report = timed(lambda: curate(config))
    assert report["read"] == len(DOCUMENTS)
    return {"pipeline": seconds}


def main() -> None:
    DOCUMENTS.extend(read(str(FOLDER / "documents.jsonl")))
    seconds = rules() | dedup() | dedup_on_beam() | pipeline()
    seconds["words"], _ = timed(lambda: [document.text.split() for document in DOCUMENTS])
    seconds["normalised words"], _ = timed(lambda: [Signals(document.text).normalised_words for document in DOCUMENTS])
    spacy = json.loads((FOLDER / "spacy_words.json").read_text())
    seconds |= rules(" on spaCy words", spacy["words"]) | dedup(" on spaCy words", spacy["normalised"])
    expected, bands = bands_by_seed()
    result = {"seconds": seconds, "kept": KEPT, "clusters": CLUSTERS, "bands": bands, "expected": expected}
    (FOLDER / "ours.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
