"""DSIR on real text: does selecting for a target find documents of its kind, and how fast?

Documents of several kinds are shuffled together without their labels; a held-apart part of one kind is the target.
Reported: the share of that kind among what is selected, at several fractions, beside a random draw and, where the
package `data-selection` (the paper's own code) is at hand in MAXLLM_DSIR_PYTHON, beside its choice on the same files.

    python benchmarks/selection/bench.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

from data_beam.io.documents import read_documents
from data_beam.select.run import select
from maxllm.config.select import SelectConfig

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PEER = """
import json, sys
from data_selection import HashedNgramDSIR
raw, target, out, count, cache = sys.argv[1:]
dsir = HashedNgramDSIR([raw], [target], cache_dir=cache, num_proc=1, separate_targets=False)
dsir.fit_importance_estimator(num_tokens_to_fit="all")
dsir.compute_importance_weights()
dsir.resample(out_dir=out, num_to_sample=int(count), cache_dir=cache + "/resampled", top_k=False)
"""


def kinds(data: Path) -> dict[str, list[str]]:
    """Texts of at least 120 words, by kind."""

    def lines(name: str, key: str) -> list[str]:
        with gzip.open(data / name, "rt", encoding="utf-8") as file:
            return [json.loads(line)[key] for line in file]

    found = {
        "academic": lines("corpus/academic_scitldr_abstracts.jsonl.gz", "text"),
        "web": lines("corpus/c4_demo.jsonl.gz", "text") + lines("quality/dclm_majority_data.jsonl.gz", "text"),
        "news": lines("quality/onestop_english.jsonl.gz", "text"),
    }
    with zipfile.ZipFile(data / "corpus/nltk_state_union.zip") as archive:
        texts = [archive.read(name).decode("latin-1") for name in archive.namelist() if name.endswith(".txt")]
    found["speeches"] = [
        " ".join(words[start : start + 300]) for words in map(str.split, texts) for start in range(0, len(words), 300)
    ]
    return {name: [text for text in texts if len(text.split()) >= 120] for name, texts in found.items()}


def write(path: Path, texts: list[tuple[str, str]]) -> None:
    records = [
        {"id": f"{number:032x}", "text": text, "source": "all", "added": "2026-01-01", "metadata": {"kind": kind}}
        for number, (kind, text) in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def run(data: Path, seed: int, scratch: Path) -> list[dict[str, object]]:
    found = kinds(data)
    rows: list[dict[str, object]] = []
    for wanted in ("academic", "news"):
        draw = random.Random(seed)
        texts = found[wanted][:]
        draw.shuffle(texts)
        half = len(texts) // 2
        target, raw = texts[:half], [(wanted, text) for text in texts[half:]]
        raw += [(kind, text) for kind, others in found.items() if kind != wanted for text in others]
        draw.shuffle(raw)
        folder = scratch / wanted
        folder.mkdir()
        write(folder / "raw.jsonl", raw)
        write(folder / "target.jsonl", [(wanted, text) for text in target])
        base = sum(kind == wanted for kind, _ in raw) / len(raw)
        for fraction in (base / 2, base, 2 * base):
            config = SelectConfig(
                documents=[str(folder / "raw.jsonl")],
                dsir={"target": [str(folder / "target.jsonl")], "fraction": fraction, "seed": seed},
                output={"path": str(folder / f"out-{fraction:.4f}")},
            )
            started = time.process_time()
            report = select(config)
            seconds = time.process_time() - started
            paths = sorted((folder / f"out-{fraction:.4f}" / "documents").iterdir())
            chosen = Counter(each.metadata["kind"] for path in paths for each in read_documents(str(path)))
            row = {
                "target": wanted,
                "documents": len(raw),
                "of that kind": base,
                "kept": report["kept"],
                "ours": chosen[wanted] / chosen.total(),
                "recall": chosen[wanted] / (base * len(raw)),
                "documents per CPU-second": len(raw) / seconds,
                "peer": None,
            }
            if python := os.environ.get("MAXLLM_DSIR_PYTHON"):
                out = folder / f"peer-{fraction:.4f}"
                command = [python, "-c", PEER, str(folder / "raw.jsonl"), str(folder / "target.jsonl"), str(out)]
                subprocess.run([*command, str(report["kept"]), str(out) + "-cache"], check=True, capture_output=True)
                lines = [line for path in out.rglob("*.jsonl") for line in path.read_text().splitlines()]
                same = Counter(json.loads(line)["metadata"]["kind"] for line in lines)
                row["peer"] = same[wanted] / same.total()
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="the folder of shared data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = run(arguments.data, arguments.seed, Path(scratch))
    text = table(rows, arguments.seed)
    print(text)
    arguments.results.write_text(text, encoding="utf-8")


def table(rows: list[dict[str, object]], seed: int) -> str:
    head = [
        "# DSIR on real text",
        "",
        f"Written by `bench.py` on {time.strftime('%Y-%m-%d')}, seed {seed}, Python {sys.version.split()[0]}, 2",
        "shared x86-64 cores. Kinds: abstracts of papers, web pages, news, speeches in pieces of 300 words; texts of",
        'at least 120 words. The target is one half of a kind, the other half is among the documents. "Random" is that',
        "kind's share among them, which any blind choice keeps. Peer: the paper's code, data-selection 1.0.3, which",
        "scores with other hashes and draws its own noise.",
        "",
        "| target | documents | kept | random | maxllm | peer | maxllm finds of all | documents per CPU-second |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        peer = "not run" if row["peer"] is None else f"{row['peer']:.1%}"
        head.append(
            f"| {row['target']} | {row['documents']:,} | {row['kept']:,} | {row['of that kind']:.1%} | "
            f"{row['ours']:.1%} | {peer} | {row['recall']:.1%} | {row['documents per CPU-second']:,.0f} |"
        )
    return "\n".join(head) + "\n"


if __name__ == "__main__":
    main()
