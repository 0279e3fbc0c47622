"""Text extraction on 181 news pages with gold text: precision, recall and F1 of word 4-grams, and time.

python benchmarks/extraction/bench.py --data article_extraction_benchmark.jsonl.xz    # writes RESULTS.md beside this

The pages are those of scrapinghub/article-extraction-benchmark, as JSON lines of {url, html, article_body}; its own
`evaluate.py` defines the measure: of each page the multisets of word 4-grams are compared, counts divided by the
page's sum so that long pages weigh no more; precision and recall are means over pages, F1 is of the two means;
accuracy is the share of pages without a wrong or missing 4-gram. ± is 1.96 standard deviations over 1,000 bootstraps.
"""

from __future__ import annotations

import argparse
import datetime
import json
import lzma
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))
DEFAULT = REPOSITORY.parent / "shared" / "data" / "web" / "article_extraction_benchmark.jsonl.xz"
WORD = re.compile(r"\w+")

# As printed in that repository's README (commit 025e4c1) for its own run over the same pages: context only.
PUBLISHED = {
    "AutoExtract (service)": ("0.984", "0.956", "0.970 ± 0.005", "0.470"),
    "Diffbot (service)": ("0.958", "0.944", "0.951 ± 0.010", "0.348"),
    "readability": ("0.913", "0.931", "0.922 ± 0.014", "0.315"),
    "newspaper": ("0.917", "0.906", "0.912 ± 0.014", "0.260"),
    "dragnet": ("0.925", "0.889", "0.907 ± 0.014", "0.221"),
    "boilerpipe": ("0.850", "0.870", "0.860 ± 0.016", "0.006"),
    "html-text (all text)": ("0.500", "0.994", "0.665 ± 0.015", "0.000"),
}
Counts = tuple[float, float, float]  # true positives, false positives, false negatives; sum 1


def shingles(text: str, n: int = 4) -> Counter[tuple[str, ...]]:
    words = WORD.findall(text)
    return Counter(filter(None, (tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))))


def compare(gold: str, found: str) -> Counts:
    wanted, got = shingles(gold), shingles(found)
    both = (wanted & got).total()
    counts = both, got.total() - both, wanted.total() - both
    total = sum(counts)
    return (counts[0] / total, counts[1] / total, counts[2] / total) if total else (0.0, 0.0, 0.0)


def scores(pages: list[Counts]) -> dict[str, float]:
    precision = statistics.mean(tp / (tp + fp) for tp, fp, _ in pages if tp + fp > 0)
    recall = statistics.mean(tp / (tp + fn) for tp, _, fn in pages if tp + fn > 0)
    f1 = 2 * precision * recall / (precision + recall)
    accuracy = statistics.mean(fp == fn == 0 for _, fp, fn in pages)
    return {"precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy}


def interval(pages: list[Counts]) -> float:
    generator = random.Random(0)
    return 1.96 * statistics.stdev(scores(generator.choices(pages, k=len(pages)))["f1"] for _ in range(1000))


def extractors() -> dict[str, Callable[[tuple[str, str | None]], str]]:
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text

    from data_beam.stages.extract import resiliparse_text, trafilatura_text

    return {
        "**trafilatura**, as `extract.extractor: trafilatura` (favour precision)": trafilatura_text,
        "**resiliparse**, as `extract.extractor: resiliparse` (main content)": resiliparse_text,
        "trafilatura, its own defaults": lambda job: trafilatura.extract(job[0], url=job[1]) or "",
        "trafilatura, favour recall": lambda job: (
            trafilatura.extract(job[0], url=job[1], favor_recall=True, include_comments=False) or ""
        ),
        "resiliparse, all text of the page": lambda job: extract_plain_text(job[0], main_content=False),
    }


def measure(name: str, data: Path, limit: int | None) -> dict[str, float]:
    from data_beam.stages.extract import tidy

    with lzma.open(data, "rt", encoding="utf-8") as stream:
        pages = [json.loads(line) for line in stream][:limit]
    extract = extractors()[name]
    extract(("<html><body><p>imports, tables</p></body></html>", None))
    compared, seconds = [], []
    for page in pages:
        begin = time.process_time()
        text = tidy(extract((page["html"], page["url"])))
        seconds.append(time.process_time() - begin)
        compared.append(compare(page["article_body"], text))
    times = {"mean_ms": 1000 * statistics.mean(seconds), "max_ms": 1000 * max(seconds)}
    return {**scores(compared), "interval": interval(compared), **times, "pages": len(pages)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT)
    parser.add_argument("--pages", type=int, help="only so many, for a first look")
    parser.add_argument("--only", metavar="EXTRACTOR", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    if not args.data.is_file():
        sys.exit(f"{args.data} is not there: name the pages as JSON lines (.xz) of url, html, article_body with --data")
    if args.only:
        print(json.dumps(measure(args.only, args.data, args.pages)))
        return
    rows, pages = [], 0
    for name in extractors():  # each in a process of its own: they remember what they saw
        command = [sys.executable, __file__, "--data", str(args.data), "--only", name]
        command += ["--pages", str(args.pages)] if args.pages else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        pages = found["pages"]
        rows.append(
            f"| {name} | {found['precision']:.3f} | {found['recall']:.3f} "
            f"| {found['f1']:.3f} ± {found['interval']:.3f} "
            f"| {found['accuracy']:.3f} | {found['mean_ms']:.1f} | {found['max_ms']:.0f} |"
        )
        print(rows[-1], flush=True)
    args.results.write_text(results(rows, pages), encoding="utf-8")


def results(rows: list[str], pages: int) -> str:
    published = [f"| {name} | {' | '.join(row)} | | |" for name, row in PUBLISHED.items()]
    return "\n".join(
        [
            "# Text extraction on pages with gold text",
            "",
            f"Written by `python benchmarks/extraction/bench.py` on {datetime.date.today()}, 2 shared x86-64 cores; "
            f"{pages} pages,",
            f"trafilatura {version('trafilatura')}, resiliparse {version('resiliparse')}. The measure is that of "
            "scrapinghub/article-extraction-benchmark (word 4-grams;",
            "see the script's head). Time is processor time of one process, imports not counted.",
            "",
            "| extractor | precision | recall | F1 | accuracy | ms a page | slowest page, ms |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "| *published for the same pages in that benchmark's README (± as printed there); not measured here:* "
            "| | | | | | |",
            *published,
            "",
            "Bold: what `maxllm curate` offers, called and tidied as it does. Favouring precision costs trafilatura",
            "little recall here and gains more; resiliparse keeps as much of the article and more of what stands",
            "around it, in a small part of the time. The pages are news and blog articles, where one text is the page:",
            "other pages (shops, forums, documentation) are not what this measures.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
