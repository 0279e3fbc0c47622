"""N-gram models beside KenLM's lmplz: the same model? at what cost? and what CCNet's buckets do with good and bad text.

python benchmarks/perplexity/bench.py                 # needs ../shared/data; writes RESULTS.md beside this file
python benchmarks/perplexity/bench.py --megabytes 1 --results first-look.md
MAXLLM_LMPLZ=path/to/lmplz python benchmarks/perplexity/bench.py      # else it is built, which needs cmake and Boost
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))
SHARED = REPOSITORY.parent / "shared" / "data"
ORDER = 5
DOCUMENT_WORDS = 200
TRAIN = """
import sys
from data_beam.ngram.training import train
from maxllm.config.perplexity import NgramConfig
train(NgramConfig.model_validate_json(sys.argv[1]), sys.argv[2:])
"""


def books() -> list[str]:
    """Paragraphs of the Gutenberg books, header and licence cut off."""
    found = []
    for path in sorted((SHARED / "corpus" / "gutenberg").glob("*.gz")):
        text = gzip.open(path, "rt", encoding="utf-8-sig").read().replace("\r", "")
        begin, end = re.search(r"\*\*\* ?START OF.*\n", text), re.search(r"\*\*\* ?END OF", text)
        text = text[begin.end() if begin else 0 : end.start() if end else None]
        found += [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
    random.Random(0).shuffle(found)
    return found


def lines_of(path: Path, key: str = "text") -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as stream:
        return [json.loads(line) for line in stream]


def write_documents(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return str(path)


def measured(command: list[str], stdin: Path | None = None) -> dict[str, float]:
    """Processor seconds (with children), wall seconds, most memory (MB) of a command."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begin = time.monotonic()
    with open(stdin or os.devnull) as source:
        process = subprocess.Popen(command, stdin=source, env=environment, stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said[-2000:])
    seconds = time.monotonic() - begin
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": seconds, "memory": usage.ru_maxrss / 1024}


def lmplz(folder: Path) -> Path | None:
    """$MAXLLM_LMPLZ, or built from the sources that the kenlm package on PyPI holds; None where that cannot be done."""
    if path := os.environ.get("MAXLLM_LMPLZ"):
        return Path(path)
    if not shutil.which("cmake"):
        return None
    print("   building lmplz ...", flush=True)
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "kenlm==0.3.0"]
    build = folder / "build"
    try:
        subprocess.run([*download, "-d", str(folder)], check=True, capture_output=True)
        with tarfile.open(next(folder.glob("kenlm-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        source = next(path for path in folder.glob("kenlm-*") if path.is_dir())
        subprocess.run(["cmake", "-S", str(source), "-B", str(build)], check=True, capture_output=True)
        subprocess.run(["make", "-C", str(build), "lmplz"], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        print(error.stderr.decode()[-500:])
        return None
    return build / "bin" / "lmplz"


def read_arpa(path: Path) -> dict[str, tuple[float, float]]:
    found = {}
    with path.open() as stream:
        for line in stream:
            fields = line.rstrip("\n").split("\t")
            if len(fields) > 1:
                found[fields[1]] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return found


def perplexity(path: Path, texts: list[str]) -> tuple[float, float, float]:
    """(of the texts, seconds to load the model, words scored a second), processor time"""
    from data_beam.ngram.model import load_model

    begin = time.process_time()
    model = load_model(str(path), None)
    loaded = time.process_time()
    scores = [model.log10(text) for text in texts]
    seconds = time.process_time() - loaded
    words = sum(count for _, count in scores)
    return 10 ** (-sum(score for score, _ in scores) / words), loaded - begin, words / seconds


def beside_lmplz(megabytes: float, folder: Path) -> list[str]:
    texts, held_out, size = [], [], 0
    for number, paragraph in enumerate(books()):
        if size >= megabytes * 1e6:
            break
        size += len(paragraph.encode()) + 1
        (held_out if number % 50 == 0 else texts).append(paragraph)
    text = folder / "train.txt"
    text.write_text("".join(f"{paragraph}\n" for paragraph in texts))
    documents = write_documents(
        folder / "train.jsonl", ["\n".join(texts[i : i + 50]) for i in range(0, len(texts), 50)]
    )

    def ours(name: str, *options: str, **settings: Any) -> dict[str, float]:
        print(f"   ours, {name} ...", flush=True)
        config = json.dumps({"documents": [documents], "output": str(folder / name), "order": ORDER, **settings})
        return measured([sys.executable, "-c", TRAIN, config, *options])

    rows = {
        "maxllm ngram, one process": ours("ours"),
        "maxllm ngram, 2 worker processes, 4 shards": ours("two", "--direct_num_workers", "2", shards=4),
    }
    program = lmplz(folder)
    if program is not None:
        print("   lmplz ...", flush=True)
        command = [
            str(program),
            "-o",
            str(ORDER),
            "-S",
            "1G",
            "-T",
            str(folder) + "/",
            "--arpa",
            str(folder / "lmplz.arpa"),
        ]
        rows["lmplz"] = measured(command, text)
    words = sum(len(paragraph.split()) for paragraph in texts)
    out = [
        "## Beside lmplz",
        "",
        f"Order {ORDER}, unpruned: {len(texts):,} paragraphs of Gutenberg books, {size / 1e6:.1f} MB, {words:,} words.",
        "Processor seconds with all child processes, most memory of one process.",
        "",
        "| | CPU s | wall s | words a CPU second | memory MB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        out.append(
            f"| {name} | {row['cpu']:.1f} | {row['wall']:.1f} | {words / row['cpu']:,.0f} | {row['memory']:,.0f} |"
        )
    value, load, speed = perplexity(folder / "ours" / "model.arpa", held_out)
    out += ["", f"Held out, every 50th paragraph: perplexity {value:.4f} by our model"]
    if program is not None:
        theirs, _, _ = perplexity(folder / "lmplz.arpa", held_out)
        ours_, golden = read_arpa(folder / "ours" / "model.arpa"), read_arpa(folder / "lmplz.arpa")
        assert ours_.keys() == golden.keys()
        most = max(abs(a - b) for key, pair in golden.items() for a, b in zip(pair, ours_[key], strict=True))
        out[-1] += f", {theirs:.4f} by lmplz's. Both have the same {len(golden):,} n-grams; no log10 probability or"
        out.append(f"back-off differs by more than {most:.1e} (lmplz computes in float32).")
    out.append(
        f"The ARPA file is loaded in {load:.1f} s and scored at {speed:,.0f} words a CPU second, a paragraph at a time."
    )
    return out


def pieces(text: str) -> list[str]:
    """Documents of some 200 words, a sentence a line."""
    found, held, words = [], [], 0
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        held.append(sentence)
        words += len(sentence.split())
        if words >= DOCUMENT_WORDS:
            found.append("\n".join(held))
            held, words = [], 0
    return found


def shuffled(text: str, draw: random.Random) -> str:
    """The same words in the same number of lines, in any order."""
    words = text.split()
    draw.shuffle(words)
    lines = max(text.count("\n") + 1, 1)
    step = -(-len(words) // lines)
    return "\n".join(" ".join(words[i : i + step]) for i in range(0, len(words), step))


def buckets(folder: Path) -> list[str]:
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from data_beam.document import Document, Drop
    from data_beam.ngram.training import train
    from data_beam.stages.perplexity import Perplexity, PerplexityBuckets
    from maxllm.config.perplexity import NgramConfig, PerplexityConfig, PreparationConfig

    draw = random.Random(0)
    articles = gzip.open(SHARED / "corpus" / "wiki_demo.txt.gz", "rt").read().splitlines()
    train_pieces = [piece for article in articles[:24] for piece in pieces(article)]
    wiki = [piece for article in articles[24:] for piece in pieces(article)]
    headlines = [
        row["text"] for row in lines_of(SHARED / "quality" / "clickbait_headlines.jsonl.gz") if row["clickbait"]
    ]
    web = [row["text"] for row in lines_of(SHARED / "corpus" / "c4_demo.jsonl.gz")]
    groups = {
        "Wikipedia, held out": wiki[:150],
        "the same, words shuffled": [shuffled(text, draw) for text in wiki[:150]],
        "C4": ["\n".join(pieces(text)[:1]) for text in web if pieces(text)][:150],
        "clickbait headlines": ["\n".join(headlines[i : i + 20]) for i in range(0, 3000, 20)],
    }
    config = NgramConfig(
        documents=[write_documents(folder / "wiki.jsonl", train_pieces)],
        output=str(folder / "wiki"),
        order=ORDER,
        preparation=PreparationConfig(normalisation="ccnet"),
        discount_fallback=[0.5, 1, 1.5],
    )
    model = train(config)
    settings = PerplexityConfig(enabled=True, models={"*": config.output}, max_perplexity=None, buckets=True)
    stage = Perplexity(settings)
    documents = [
        Document(f"{name}/{n}", text, name, "") for name, texts in groups.items() for n, text in enumerate(texts)
    ]
    scored = [stage(document) for document in documents]
    found = folder / "buckets.json"
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        (
            pipeline
            | beam.Create(scored)
            | PerplexityBuckets(settings)
            | beam.MapTuple(lambda name, edit: (name, edit.metadata["perplexity_bucket"]))
            | beam.combiners.ToList()
            | beam.Map(lambda pairs: found.write_text(json.dumps(pairs)))
        )
    bucket = dict(json.loads(found.read_text()))
    out = [
        "## CCNet's buckets",
        "",
        f"A {ORDER}-gram model of {model['words']:,} words of Wikipedia (24 articles, CCNet's normalisation).",
        f"Documents of about {DOCUMENT_WORDS} words, a sentence a line; terciles of all {len(documents)} documents.",
        "A small model of little text: the order is what counts, not the size of the perplexities.",
        "",
        "| documents | number | median perplexity | above 5,000 | head | middle | tail |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, texts in groups.items():
        values = [document.metadata["perplexity"] for document in scored if document.source == name]
        shares = [sum(bucket[f"{name}/{n}"] == b for n in range(len(texts))) for b in ("head", "middle", "tail")]
        shown = " | ".join(f"{share / len(texts):.0%}" for share in shares)
        above = sum(value > 5000 for value in values) / len(values)
        out.append(f"| {name} | {len(texts)} | {statistics.median(values):,.0f} | {above:.0%} | {shown} |")
    labelled = lines_of(SHARED / "quality" / "dclm_majority_data.jsonl.gz")
    pairs = []
    for row in labelled:
        kept = stage(Document("q", "\n".join(pieces(row["text"])) or row["text"], "q", ""))
        assert not isinstance(kept, Drop)
        pairs.append((kept.metadata.get("perplexity", 0.0), int(row["label"])))
    good, bad = [p for p, label in pairs if label], [p for p, label in pairs if not label]
    wins = sum((b > g) + (b == g) / 2 for g in good for b in bad) / (len(good) * len(bad))
    out += [
        "",
        f"Against people's judgement: of {len(pairs)} web documents that people called good or bad, a bad one has the",
        f"higher perplexity in {wins:.0%} of pairs (50 % is chance). Medians: good {statistics.median(good):,.0f},",
        f"bad {statistics.median(bad):,.0f}. (quality/dclm_majority_data)",
    ]
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--results", default="RESULTS.md")
    args = parser.parse_args()
    if not SHARED.is_dir():
        print("the shared data folder is absent; nothing was measured")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        body = [*beside_lmplz(args.megabytes, folder), "", *buckets(folder)]
    command = f"python benchmarks/perplexity/bench.py --megabytes {args.megabytes:g}"
    head = ["# N-gram models and perplexity", "", f"Written by `bench.py` on {datetime.date.today()}: `{command}`", ""]
    head[2] += f"\non {os.cpu_count()} shared x86-64 cores, Python {sys.version.split()[0]}, lmplz of KenLM 0.3.0."
    (HERE / args.results).write_text("\n".join([*head, *body]) + "\n")
    print("\n".join(body))
    return 0


if __name__ == "__main__":
    sys.exit(main())
