"""The presets of rules, measuring apart from deciding, and dolma's numbers beside ours. Writes RESULTS.md.

python benchmarks/rules/bench.py
python benchmarks/rules/bench.py --documents 300 --results first-look.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks" / "curation")]

import corpus  # noqa: E402

from data_beam.document import Document, Drop  # noqa: E402
from data_beam.stages.quality import Quality  # noqa: E402
from data_beam.text.ratios import DolmaRatios  # noqa: E402
from data_beam.text.signals import Signals  # noqa: E402
from maxllm.config.curate import CurateConfig  # noqa: E402
from maxllm.config.load import resolve  # noqa: E402
from maxllm.config.rules import QualityConfig  # noqa: E402

PRESETS = ("gopher", "c4", "c4-tfds", "fineweb", "refinedweb", "dolma", "mission", "nemotron-style")
# dolma's attribute -> ours
SAME: dict[str, Callable[[DolmaRatios], float]] = {
    "word_count": lambda each: each.word_count,
    "median_word_length": lambda each: each.median_word_length,
    "symbol_to_word_ratio": lambda each: each.symbol_word_ratio,
    "fraction_of_words_with_alpha_character": lambda each: each.alphabetic_word_fraction,
    "required_word_count": lambda each: each.stop_word_occurrences,
    "fraction_of_lines_starting_with_bullet_point": lambda each: each.bullet_line_fraction,
    "fraction_of_lines_ending_with_ellipsis": lambda each: each.ellipsis_line_fraction,
    "fraction_of_duplicate_lines": lambda each: each.duplicate_line_fraction,
    "fraction_of_characters_in_duplicate_lines": lambda each: each.duplicate_line_character_fraction,
}
ODD = ["a", "a b", "# … \n…", "- a\n\n- a\n\n\n", "the the\x0bthe\n", "•\u2028a… a…\r\n* b"]


def rate(function: Callable[[Any], Any], items: list[Any]) -> tuple[float, list[Any]]:
    """(items per processor second, the better of two; results)"""
    best, results = float("inf"), []
    for _ in range(2):
        start = time.process_time()
        results = [function(item) for item in items]
        best = min(best, time.process_time() - start)
    return len(items) / best, results


def dolma_differences(texts: list[str]) -> tuple[int, int]:
    """(numbers compared, numbers that differ by more than 1e-12)"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "peer" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "peer")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "uv"], check=True)
        # pip looks for minutes for versions that go together; uv takes seconds.
        subprocess.run(
            [str(python), "-m", "uv", "pip", "install", "-q", "--python", str(python), "dolma==1.2.1"], check=True
        )
        (folder / "in.json").write_text(json.dumps(texts), encoding="utf-8")
        files = [str(folder / "in.json"), str(folder / "out.json")]
        subprocess.run([str(python), str(HERE / "peer_dolma.py"), *files], check=True)
        theirs = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    compared = different = 0
    for text, gold in zip(texts, theirs, strict=True):
        ours = Signals(text).dolma
        pairs = [(gold[name], get(ours)) for name, get in SAME.items()]
        pairs += [
            (v, ours.top_ngram_character_fraction(n)) for n, v in gold["fraction_of_characters_in_most_common_ngram"]
        ]
        pairs += [
            (v, ours.duplicate_ngram_character_fraction(n))
            for n, v in gold["fraction_of_characters_in_duplicate_ngrams"]
        ]
        compared += len(pairs)
        different += sum(abs(a - b) > 1e-12 for a, b in pairs)
    return compared, different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    sizes = range(corpus.MIN_CHARACTERS, corpus.MAX_CHARACTERS + 1)
    texts = list(itertools.islice((text for text in corpus.docstrings() if len(text) in sizes), options.documents))
    documents = [Document(str(number), text, "docstrings", "2024") for number, text in enumerate(texts)]

    lines = [
        "# Rules: presets, and measuring apart from deciding",
        "",
        f"Written by `bench.py` on {options.date}: `python benchmarks/rules/bench.py` on 2 shared x86-64 cores.",
        f"{len(texts):,} docstrings of this machine's Python packages, {sum(map(len, texts)) / 1e6:.1f} MB.",
        "Documents per second of processor time of one process, the better of two passes.",
        "",
        "| preset `curate/rules/...` | documents a second | kept |",
        "| --- | ---: | ---: |",
    ]
    for name in PRESETS:
        stage = Quality(resolve(CurateConfig, f"curate/rules/{name}").config.quality)
        speed, outcomes = rate(stage, documents)
        kept = sum(isinstance(outcome, Document) for outcome in outcomes)
        lines.append(f"| {name} | {speed:,.0f} | {kept / len(documents):.1%} |")

    stage = Quality(QualityConfig())
    lazily, expected = rate(stage, documents)
    measuring, measured = rate(stage.measure, documents)
    deciding, decided = rate(stage.decide, measured)
    size = sum(len(json.dumps(each.metadata["signals"])) for each in measured) / len(measured)
    agree = all(
        a == b if isinstance(a, Drop) else isinstance(b, Document) and a.text == b.text
        for a, b in zip(expected, decided, strict=True)
    )
    assert agree, "what was stored decides otherwise than the text"
    lines += [
        "",
        "The default sets (Gopher, C4, FineWeb), the same verdicts and texts three ways:",
        "",
        "| | documents a second |",
        "| --- | ---: |",
        f"| decided from the text, as far as the rules ask | {lazily:,.0f} |",
        f"| measured: every count of every set | {measuring:,.0f} |",
        f"| decided again from what was stored ({size:,.0f} bytes of JSON a document) | {deciding:,.0f} |",
        "",
    ]
    sample = texts + ODD
    compared, different = dolma_differences(sample)
    lines += [
        f"`reading: dolma` beside dolma 1.2.1's tagger gopher_v1, on {len(texts):,} of these and {len(ODD)} odd texts:",
        f"of {compared:,} numbers {different} differ.",
    ]
    options.results.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(options.results)


if __name__ == "__main__":
    main()
