"""Runs in datatrove's own environment: FOLDER/documents.jsonl in, FOLDER/datatrove.json and spaCy's words out."""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup import minhash as minhash_module
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils import word_tokenizers
from datatrove.utils.hashing import HashConfig
from datatrove.utils.text import DEF_TEXT_NORM_CONFIG, simplify_text, split_into_parts
from loguru import logger

FOLDER = Path(sys.argv[1])
ROWS = [json.loads(line) for line in (FOLDER / "documents.jsonl").open(encoding="utf-8")]
CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
RULES: dict[str, Callable[[], Any]] = {
    "gopher quality": GopherQualityFilter,
    "gopher repetition": GopherRepetitionFilter,
    "c4 quality": C4QualityFilter,
    "fineweb quality": FineWebQualityFilter,
}
# FineWeb's order, and the one in which ours run.
CHAIN = ("gopher quality", "gopher repetition", "c4 quality", "fineweb quality")


class FastWords(word_tokenizers.WordTokenizer):
    """datatrove with words that cost nearly nothing, to see what the rest of it costs."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return re.split(r"(?<=[.!?])\s+", text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        ends = [match.end() for match in re.finditer(r"[.!?]\s+", text)]
        return list(zip([0, *ends], [*ends, len(text)], strict=True))


def cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def documents() -> list[Document]:
    return [Document(text=row["text"], id=row["id"], metadata={}) for row in ROWS]


def passes(rule: Any, document: Document) -> bool:
    verdict = rule.filter(document)
    return verdict if isinstance(verdict, bool) else verdict[0]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = cpu()
    result = function()
    return cpu() - start, result


def rules(suffix: str = "") -> dict[str, float]:
    seconds = {}
    for name, make in RULES.items():
        rule = make()
        passes(rule, Document(text="Loads the tokenizer. " * 60, id="warm"))
        inputs = documents()
        split_into_parts.cache_clear()
        seconds[name + suffix], kept = timed(lambda r=rule, i=inputs: [d.id for d in i if passes(r, d)])
        KEPT[name + suffix] = kept
    chain = [RULES[name]() for name in CHAIN]
    inputs = documents()
    split_into_parts.cache_clear()
    seconds["all rules" + suffix], KEPT["all rules" + suffix] = timed(
        lambda: [d.id for d in inputs if all(passes(rule, d) for rule in chain)]
    )
    return seconds


def dedup(suffix: str = "") -> dict[str, float]:
    base = FOLDER / f"minhash{suffix.replace(' ', '_')}"
    signature = MinhashDedupSignature(output_folder=str(base / "signatures"), config=CONFIG)
    list(signature.get_shingles("Loads the tokenizer now, please."))
    inputs = documents()
    seconds = {}
    seconds["minhash signatures" + suffix], _ = timed(lambda: signature.run(inputs, 0, 1))

    def rest() -> None:
        buckets = MinhashDedupBuckets(str(base / "signatures"), str(base / "buckets"), config=CONFIG)
        for bucket in range(CONFIG.num_buckets):
            buckets.run(None, bucket, CONFIG.num_buckets)
        cluster = MinhashDedupCluster(str(base / "buckets"), str(base / "remove"), config=CONFIG, save_cluster_id=True)
        cluster.run(None, 0, 1)
        KEPT["dedup" + suffix] = [d.id for d in MinhashDedupFilter(str(base / "remove")).run(inputs, 0, 1)]

    seconds["minhash buckets and clusters" + suffix], _ = timed(rest)
    pairs = np.fromfile(base / "remove" / "000000.clusters", "<u4").reshape(-1, 2).tolist()
    CLUSTERS["clusters" + suffix] = {ROWS[place]["id"]: cluster for place, cluster in pairs}
    return seconds


def pipeline() -> dict[str, float]:
    """Their own executor, one task: read, rules, write; then the four stages of MinHash; read and write again."""
    base = FOLDER / "pipeline"

    def run(stage: int, steps: list[Any], tasks: int = 1) -> None:
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(base / f"logs{stage}")).run()

    def all_stages() -> None:
        kept, out = str(base / "kept"), str(base / "out")
        read = JsonlReader(str(FOLDER), glob_pattern="documents.jsonl")
        run(0, [read, *(RULES[name]() for name in CHAIN), JsonlWriter(kept)])
        run(1, [JsonlReader(kept), MinhashDedupSignature(str(base / "sig"), config=CONFIG)])
        run(2, [MinhashDedupBuckets(str(base / "sig"), str(base / "buckets"), config=CONFIG)], CONFIG.num_buckets)
        run(3, [MinhashDedupCluster(str(base / "buckets"), str(base / "remove"), config=CONFIG)])
        run(4, [JsonlReader(kept), MinhashDedupFilter(str(base / "remove")), JsonlWriter(out)])

    seconds, _ = timed(all_stages)
    return {"pipeline": seconds}


KEPT: dict[str, list[str]] = {}
CLUSTERS: dict[str, dict[str, int]] = {}


def main() -> None:
    logger.disable("datatrove")
    seconds = rules() | dedup() | pipeline()

    words = word_tokenizers.load_word_tokenizer("eng")
    seconds["words"], plain = timed(lambda: [words.word_tokenize(row["text"]) for row in ROWS])
    simple = [simplify_text(row["text"], DEF_TEXT_NORM_CONFIG) for row in ROWS]
    seconds["normalised words"], normalised = timed(lambda: [words.word_tokenize(text) for text in simple])
    (FOLDER / "spacy_words.json").write_text(json.dumps({"words": plain, "normalised": normalised}))

    word_tokenizers.load_word_tokenizer = lambda language: FastWords()
    minhash_module.load_word_tokenizer = word_tokenizers.load_word_tokenizer
    seconds |= rules(" on fast words") | dedup(" on fast words")
    result = {"seconds": seconds, "kept": KEPT, "clusters": CLUSTERS}
    (FOLDER / "datatrove.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
