"""Runs in dolma's own environment: FOLDER/documents.jsonl in, FOLDER/dolma.json and its list of words out."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dolma.core.data_types import Document
from dolma.taggers import c4
from dolma.taggers.c4 import C4Tagger
from dolma.taggers.gopher import GopherTagger

FOLDER = Path(sys.argv[1])
ROWS = [json.loads(line) for line in (FOLDER / "documents.jsonl").open(encoding="utf-8")]


def tagger(make: Callable[[], Any]) -> float:
    """Processor seconds of one tagger over all documents; loading is not counted."""
    documents = [Document(source="bench", id=row["id"], text=row["text"]) for row in ROWS]
    step = make()
    started = time.process_time()
    for document in documents:
        step.predict(document)
    return time.process_time() - started


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(name: str, rows: list[dict[str, Any]], *arguments: str) -> tuple[float, Path]:
    """Processor seconds of a dolma command on these documents, one process, and its folder."""
    folder = FOLDER / "dolma" / name
    documents = folder / "documents" / "0.jsonl.gz"  # the attributes' paths are made by replacing this folder's name
    documents.parent.mkdir(parents=True)
    with gzip.open(documents, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({**row, "source": "bench"}) + "\n" for row in rows)
    verb, *rest = arguments
    program = [str(Path(sys.executable).parent / "dolma"), verb, "--documents", str(documents.parent / "*.gz"), *rest]
    started = children()
    with (folder / "log").open("w") as log:
        environment = {**os.environ, "PYTHONPATH": ""}
        subprocess.run([*program, "--processes", "1"], check=True, cwd=folder, stdout=log, stderr=log, env=environment)
    return children() - started, folder


def tag(name: str, rows: list[dict[str, Any]]) -> float:
    seconds, _ = command(name, rows, "tag", "--experiment", "bench", "--taggers", "gopher_v1", "c4_v1")
    return seconds


def dedupe(name: str, rows: list[dict[str, Any]]) -> tuple[float, list[str]]:
    """Seconds, and ids of the documents that were not seen before."""
    seconds, folder = command(
        name,
        rows,
        *("dedupe", "--dedupe.name", "bench", "--dedupe.documents.attribute_name", "seen"),
        *("--dedupe.documents.key", "$.text", "--bloom_filter.file", "seen.bin", "--no-bloom_filter.read_only"),
        *("--bloom_filter.estimated_doc_count", str(len(ROWS)), "--bloom_filter.desired_false_positive_rate", "1e-4"),
    )
    with gzip.open(folder / "attributes" / "bench" / "0.jsonl.gz", "rt", encoding="utf-8") as stream:
        return seconds, [row["id"] for row in map(json.loads, stream) if not row["attributes"].get("seen")]


def main() -> None:
    seconds = {"gopher_v1": tagger(GopherTagger), "c4_v1": tagger(C4Tagger)}
    words = sorted(c4.NAUGHTY_WORDS | c4.NAUGHTY_PHRASES)
    (FOLDER / "naughty_words.json").write_text(json.dumps(words))
    for name, rows in (("start", ROWS[:10]), ("all", ROWS)):
        seconds[f"tag, {name}"] = tag(f"tag_{name}", rows)
        seconds[f"dedupe, {name}"], kept = dedupe(f"dedupe_{name}", rows)
    (FOLDER / "dolma.json").write_text(json.dumps({"seconds": seconds, "kept": {"exact": kept}}))


if __name__ == "__main__":
    main()
