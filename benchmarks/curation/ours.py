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

from data_beam.classify.badwords import WordMatcher
from data_beam.dedup.driver import find_duplicates
from data_beam.dedup.exact import fingerprint
from data_beam.dedup.nodes import id_of, node_of, smallest_reachable
from data_beam.dedup.signature import MinHasher
from data_beam.document import Document
from data_beam.output import Output
from data_beam.phases import Phases
from data_beam.pipeline import curate, read_parts
from data_beam.stages.quality import Quality
from data_beam.stages.rules.c4 import c4_lines, c4_page
from data_beam.stages.rules.fineweb import fineweb_quality
from data_beam.stages.rules.gopher import gopher_quality, gopher_repetition
from data_beam.stages.rules.lines import without_lines
from data_beam.text.signals import Signals
from data_beam.text.words import word_hashes
from data_beam.verdicts import Part, read_verdicts
from maxllm.config.curate import CurateConfig
from maxllm.config.dedup import ExactDedupConfig, FuzzyDedupConfig
from maxllm.config.rules import QualityConfig

FOLDER = Path(sys.argv[1])
QUALITY, FUZZY = QualityConfig(), FuzzyDedupConfig()
RULES: dict[str, Callable[[Signals], Any]] = {
    "gopher quality": lambda signals: gopher_quality(signals, QUALITY.gopher),
    "gopher repetition": lambda signals: gopher_repetition(signals, QUALITY.repetition),
    "c4 quality": lambda signals: c4_page(c4_lines(signals, QUALITY.c4), QUALITY.c4),
    "fineweb quality": lambda signals: fineweb_quality(signals, QUALITY.fineweb),
}
SETS = ("gopher", "repetition", "c4", "fineweb")
DOLMA_QUALITY = {
    "gopher": {"reading": "dolma"},
    "repetition": {"reading": "dolma"},
    "fineweb": {"enabled": False},
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


def read(path: str) -> Iterator[Document]:
    with open(path, encoding="utf-8") as stream:
        yield from (Document.from_json(json.loads(line)) for line in stream)


def verdict_phase(name: str, exact: bool, fuzzy: bool, path: Path = FOLDER / "documents.jsonl") -> dict[str, str]:
    """The phase of `maxllm curate` that looks for duplicates, from file to file; id -> id that stays."""
    folder = FOLDER / name
    folder.mkdir()
    phases = Phases(Output(str(folder), "f" * 64))
    configs = ExactDedupConfig(enabled=exact), FuzzyDedupConfig(enabled=fuzzy)
    (part,) = find_duplicates(phases.run, read_parts, [Part(0, str(path))], *configs)
    return {
        DOCUMENTS[row].id: verdicts[0].value.partition("@")[0]
        for verdict_file in part.verdicts
        for row, verdicts in read_verdicts(verdict_file).items()
    }


def dedup_on_beam(few: Path) -> dict[str, float]:
    """The same stages as pipelines run them; the verdicts must be those of the plain functions."""
    seconds = {}
    verdict_phase("warm", True, True, few)
    seconds["start of a job"], _ = timed(lambda: verdict_phase("start", False, True, few))
    seconds["dedup on beam"], drops = timed(lambda: verdict_phase("fuzzy", False, True))
    assert drops == {id: low for id, low in CLUSTERS["clusters"].items() if id != low}, "Beam and functions disagree"
    seconds["exact on beam"], drops = timed(lambda: verdict_phase("exact", True, False))
    KEPT["exact"] = [document.id for document in DOCUMENTS if document.id not in drops]
    return seconds


def program(name: str, path: Path, **sections: Any) -> float:
    """`maxllm curate` as a whole: read, rules, verdicts, outputs, rejects and report. Processor seconds."""
    off = {"enabled": False}
    unused = ("url", "extract", "language", "code", "exact_dedup", "fuzzy_dedup", "decontamination")
    config = CurateConfig.model_validate(
        {
            "inputs": [{"format": "jsonl", "paths": [str(path)]}],
            "output": {"path": str(FOLDER / name), "format": "jsonl.gz"},
            **{section: off for section in unused},
            **sections,
        }
    )
    seconds, report = timed(lambda: curate(config))
    assert report["read"] == sum(1 for _ in path.open())
    return seconds


def programs(few: Path) -> dict[str, float]:
    """Beside datatrove: rules and MinHash. Beside dolma: rules; exact duplicates. And what each takes to start."""
    minhash: dict[str, Any] = {"fuzzy_dedup": {"enabled": True}}
    dolma = {"quality": DOLMA_QUALITY}
    exact = {"exact_dedup": {"enabled": True}, "quality": {name: {"enabled": False} for name in SETS}}
    seconds = {}
    for name, sections in (("pipeline", minhash), ("dolma tag", dolma), ("dolma dedupe", exact)):
        folder = name.replace(" ", "_")
        seconds[f"{name}, start"] = program(f"start_{folder}", few, **sections)
        seconds[name] = program(folder, FOLDER / "documents.jsonl", **sections)
    return seconds


def as_dolma() -> dict[str, float]:
    """What dolma's taggers do: every number of gopher_v1, and for c4_v1 C4's rules with dolma's own words."""
    naughty = WordMatcher(json.loads((FOLDER / "naughty_words.json").read_text()), "en")
    gopher, repetition = (
        section.model_copy(update={"reading": "dolma"}) for section in (QUALITY.gopher, QUALITY.repetition)
    )

    def c4(document: Document) -> Any:
        signals = Signals(document.text)
        return c4_page(c4_lines(signals, QUALITY.c4), QUALITY.c4), naughty.count(document.text)

    def verdict(document: Document) -> Any:
        signals = Signals(document.text)
        return gopher_quality(signals, gopher) or gopher_repetition(signals, repetition)

    tasks: dict[str, Callable[[Document], Any]] = {
        "gopher_v1": lambda document: Signals(document.text).dolma.counts,
        "gopher_v1, verdict": verdict,
        "c4_v1": c4,
        "exact": lambda document: fingerprint(document.text),
    }
    return {f"dolma {name}": timed(lambda task=task: list(map(task, DOCUMENTS)))[0] for name, task in tasks.items()}


def main() -> None:
    DOCUMENTS.extend(read(str(FOLDER / "documents.jsonl")))
    few = FOLDER / "few.jsonl"
    few.write_text("".join((FOLDER / "documents.jsonl").read_text().splitlines(keepends=True)[:10]))
    seconds = rules() | dedup() | dedup_on_beam(few) | programs(few) | as_dolma()
    seconds["words"], _ = timed(lambda: [document.text.split() for document in DOCUMENTS])
    seconds["normalised words"], _ = timed(lambda: [Signals(document.text).normalised_words for document in DOCUMENTS])
    spacy = json.loads((FOLDER / "spacy_words.json").read_text())
    seconds |= rules(" on spaCy words", spacy["words"]) | dedup(" on spaCy words", spacy["normalised"])
    result = {"seconds": seconds, "kept": KEPT, "clusters": CLUSTERS}
    (FOLDER / "ours.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
