"""Our side: FOLDER/documents.jsonl and spacy_words.json in, FOLDER/ours.json out."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam

from data_beam.dedup.driver import find_duplicates
from data_beam.dedup.nodes import smallest_reachable
from data_beam.dedup.signature import MinHasher
from data_beam.document import Document
from data_beam.output import Output
from data_beam.phases import Phases
from data_beam.text.signals import Signals
from data_beam.text.words import word_hashes
from data_beam.verdicts import Part, ReadParts, read_verdicts
from maxllm.config.dedup import ExactDedupConfig, FuzzyDedupConfig

FOLDER = Path(sys.argv[1])
DOCUMENTS = FOLDER / "documents.jsonl"
FUZZY = FuzzyDedupConfig()
PRESETS = {
    "fineweb": FUZZY,
    "redpajama-v2-0.8": FuzzyDedupConfig(ngram=13, bands=9, rows=13),
    "curator": FuzzyDedupConfig(unit="character", ngram=24, bands=20, rows=13),
    "refinedweb": FuzzyDedupConfig(bands=450, rows=20),
}


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def texts() -> Iterator[tuple[str, str]]:
    with DOCUMENTS.open(encoding="utf-8") as stream:
        yield from ((row["id"], row["text"]) for row in map(json.loads, stream))


def signatures(config: FuzzyDedupConfig, words: list[list[str]] | None = None) -> list[list[bytes]]:
    hasher = MinHasher(config)
    if words is not None:
        return [hasher.band_keys(word_hashes(each)) for each in words]
    return [hasher.band_keys(hasher.hashes(Signals(text))) for _, text in texts()]


def clusters(signed: list[list[bytes]]) -> dict[str, str]:
    """id -> smallest id of its component, in plain Python: what the pipeline must find too."""
    buckets = defaultdict(list)
    for (id, _), keys in zip(texts(), signed, strict=True):
        for key in keys:
            buckets[key].append(id)
    return smallest_reachable(edge for ids in buckets.values() for edge in zip(ids, ids[1:], strict=False))


def read(root: beam.Pipeline, parts: list[Part]) -> beam.PCollection[Document]:
    return root | "parts" >> beam.Create(parts) | "documents" >> beam.ParDo(ReadParts())


def on_beam(name: str, documents: Path = DOCUMENTS) -> dict[str, str]:
    """The phase of `maxllm curate`: documents from a file, verdicts in a file; id -> id that stays."""
    folder = FOLDER / name
    folder.mkdir()
    phases = Phases(Output(str(folder), "f" * 64))
    configs = ExactDedupConfig(enabled=False), FUZZY
    (part,) = find_duplicates(phases.run, read, [Part(0, str(documents))], *configs)
    ids = [id for id, _ in texts()]
    return {ids[row]: drops[0].value for path in part.verdicts for row, drops in read_verdicts(path).items()}


def main() -> None:
    seconds: dict[str, float] = {}
    found: dict[str, dict[str, str]] = {}
    seconds["signatures"], signed = timed(lambda: signatures(FUZZY))
    seconds["clusters"], found["fineweb"] = timed(lambda: clusters(signed))
    few = FOLDER / "ten.jsonl"
    few.write_text("".join(f"{line}\n" for line in DOCUMENTS.read_text().splitlines()[:10]))
    on_beam("warm", few)
    seconds["start of a job"], _ = timed(lambda: on_beam("start", few))
    seconds["on beam"], drops = timed(lambda: on_beam("fuzzy"))
    expected = {id: low for id, low in found["fineweb"].items() if id != low}
    assert drops == expected, "Beam and the plain functions disagree"
    spacy = json.loads((FOLDER / "spacy_words.json").read_text())
    seconds["signatures on spaCy words"], _ = timed(lambda: signatures(FUZZY, spacy))
    for name, config in PRESETS.items():
        seconds[f"preset {name}"], signed = timed(lambda config=config: signatures(config))
        found[name] = clusters(signed)
    (FOLDER / "ours.json").write_text(json.dumps({"seconds": seconds, "clusters": found}))


if __name__ == "__main__":
    main()
