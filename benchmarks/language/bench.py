"""Language identification on gold sentences, beside py3langid and lingua. Writes RESULTS.md beside this file.

python benchmarks/language/bench.py                       # all 27,000 texts, peers in a throw-away environment
python benchmarks/language/bench.py --every 20 --results first-look.md

The data: lid/ of the shared data folder (22,500 sentences in 75 languages and 4,500 pairs of words, from lingua's
accuracy reports, Apache-2.0; the sentences are of the Leipzig corpora, CC BY 4.0).
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
sys.path.insert(0, str(REPOSITORY))

from data_beam.text.language import load_model  # noqa: E402

PEERS = {"py3langid": "py3langid==0.4.0", "lingua": "lingua-language-detector==2.1.1"}
CONFIDENCES = (0.0, 0.65, 0.8)
# One language, two codes: lid.176 says no for Bokmål, the gold data nb.
SAME = {"no": "nb"}
Found = list[tuple[str, float]]


def read(path: Path, every: int) -> tuple[list[str], list[str]]:
    """(texts, gold labels)"""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream][::every]
    return [row["text"] for row in rows], [row["lang"] for row in rows]


def ours(texts: list[str]) -> tuple[float, Found]:
    model = load_model(None)
    start = time.process_time()
    found = [model.identify(text) for text in texts]
    return time.process_time() - start, found


def peer(python: Path, name: str, texts: list[str], folder: Path) -> tuple[float, Found]:
    source, target = folder / "texts.json", folder / "labels.json"
    source.write_text(json.dumps(texts), encoding="utf-8")
    subprocess.run([str(python), str(HERE / "peer.py"), name, str(source), str(target)], check=True)
    result = json.loads(target.read_text(encoding="utf-8"))
    return result["seconds"], [(label, confidence) for label, confidence in result["labels"]]


def environment(folder: Path) -> Path:
    python = folder / "peers" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(folder / "peers")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS.values()], check=True)
    return python


def labels_at(found: Found, confidence: float) -> list[str]:
    return [SAME.get(label, label) if sure > confidence else "und" for label, sure in found]


def scores(gold: list[str], labels: list[str]) -> dict[str, tuple[float, float, float]]:
    """Per gold language: precision, recall, F1. What is called `und` is a miss, never a false alarm."""
    right = Counter(a for a, b in zip(gold, labels, strict=True) if a == b)
    said, there = Counter(labels), Counter(gold)
    table = {}
    for language in sorted(there):
        precision = right[language] / said[language] if said[language] else 0.0
        recall = right[language] / there[language]
        table[language] = (precision, recall, 2 * right[language] / (said[language] + there[language]))
    return table


def row(name: str, gold: list[str], found: Found, confidence: float, known: set[str]) -> str:
    """One row: accuracy, share answered, how much of that is right, macro F1; and both for languages known to all."""
    labels = labels_at(found, confidence)
    pairs = list(zip(gold, labels, strict=True))
    right = sum(a == b for a, b in pairs)
    answered = sum(b != "und" for b in labels)
    table = scores(gold, labels)
    f1 = sum(each[2] for each in table.values()) / len(table)
    common = [a == b for a, b in pairs if a in known]
    common_f1 = sum(table[language][2] for language in table if language in known) / len(known & set(table))
    return (
        f"| {name} | {confidence:g} | {right / len(pairs):.1%} | {answered / len(pairs):.1%} | "
        f"{right / max(answered, 1):.1%} | {f1:.3f} | {sum(common) / len(common):.1%} | {common_f1:.3f} |"
    )


HEAD = (
    "| | confidence above | accuracy | answered | of these right | macro F1 | accuracy, common | macro F1, common |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def documents(texts: list[str], gold: list[str], sentences: int) -> tuple[list[str], list[str]]:
    """Sentences of one language in a row, `sentences` a document, a line each."""
    by_language: dict[str, list[str]] = {}
    for text, language in zip(texts, gold, strict=True):
        by_language.setdefault(language, []).append(text)
    made = [
        ("\n".join(lines[start : start + sentences]), language)
        for language, lines in by_language.items()
        for start in range(0, len(lines) - sentences + 1, sentences)
    ]
    return [text for text, _ in made], [language for _, language in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "lid")
    parser.add_argument("--every", type=int, default=1, help="only every so manieth text")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    sets = {
        "sentences": read(options.data / "lingua_sentences.jsonl.gz", options.every),
        "pairs of words": read(options.data / "lingua_word_pairs.jsonl.gz", options.every),
    }
    runs: dict[str, dict[str, tuple[float, Found]]] = {
        "maxllm": {name: ours(texts) for name, (texts, _) in sets.items()}
    }
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder))
        for name in PEERS:
            print(f"   {name} ...", flush=True)
            runs[name] = {each: peer(python, name, texts, Path(folder)) for each, (texts, _) in sets.items()}
    options.results.write_text(report(options, sets, runs), encoding="utf-8")
    print(options.results)


def report(options: argparse.Namespace, sets: dict[str, Any], runs: dict[str, Any]) -> str:
    texts, gold = sets["sentences"]
    spoken = [set(labels_at(runs[name]["sentences"][1], 0)) for name in runs]
    # lid.176's own list; of the others, what they ever answer.
    spoken[0] = {SAME.get(label, label) for label in load_model(None).labels}
    known = set(gold).intersection(*spoken)
    unknown = sorted(set(gold) - spoken[0])
    pairs = sets["pairs of words"][0]
    lines = [
        "# Language identification",
        "",
        f"Written by `bench.py` on {options.date}: `python benchmarks/language/bench.py` on 2 shared x86-64 cores.",
        f"{len(texts):,} sentences in {len(set(gold))} languages (up to 300 each, {mean_length(texts):.0f} characters",
        f"on average) and {len(pairs):,} pairs of words ({mean_length(pairs):.0f} characters). Ours is fastText's",
        "lid.176.ftz as bundled (0.9 MB); `languages` and `labels` are not restricted. At or below a confidence the",
        "answer is `und`, which counts as wrong in accuracy and as a miss in F1. Macro F1 is over the",
        f'{len(set(gold))} gold languages; "common" is over the {len(known)} that all three know.',
        f"lid.176 does not know {', '.join(unknown)}; `no` and `nb` count as one. Confidences are each program's",
        "own and mean different things: compare rows by what is answered, not by the number. The sentences are of the",
        "corpora that lingua's models are made of (other sentences), which favours it.",
        "",
    ]
    for name, (each_texts, each_gold) in sets.items():
        lines += [f"## {name[0].upper()}{name[1:]}", "", HEAD]
        for program, by_set in runs.items():
            lines += [row(program, each_gold, by_set[name][1], confidence, known) for confidence in CONFIDENCES]
        seconds = ", ".join(f"{p} {by_set[name][0] / len(each_texts) * 1000:.2f}" for p, by_set in runs.items())
        lines += ["", f"Processor seconds for 1,000 texts, one process, loading not counted: {seconds}.", ""]
    lines += worst(gold, runs["maxllm"]["sentences"][1])
    lines += longer(texts, gold, known)
    lines += removed(gold, runs["maxllm"]["sentences"][1])
    return "\n".join(lines) + "\n"


def mean_length(texts: list[str]) -> float:
    return sum(map(len, texts)) / len(texts)


def worst(gold: list[str], found: Found) -> list[str]:
    table = scores(gold, labels_at(found, 0))
    strict = scores(gold, labels_at(found, 0.8))
    lines = ["## The twenty languages ours knows least, sentences", ""]
    lines += ["| gold | F1 | precision | recall | mostly taken for | precision at 0.8 | recall at 0.8 |"]
    lines += ["| --- | ---: | ---: | ---: | --- | ---: | ---: |"]
    for language in sorted(table, key=lambda each: table[each][2])[:20]:
        taken = Counter(
            b for a, b in zip(gold, labels_at(found, 0), strict=True) if a == language and b != language
        ).most_common(3)
        precision, recall, f1 = table[language]
        mostly = ", ".join(f"{name} {count}" for name, count in taken)
        lines.append(
            f"| {language} | {f1:.3f} | {precision:.1%} | {recall:.1%} | {mostly} | "
            f"{strict[language][0]:.1%} | {strict[language][1]:.1%} |"
        )
    return [*lines, ""]


def longer(texts: list[str], gold: list[str], known: set[str]) -> list[str]:
    first, second = HEAD.split("\n")
    lines = ["## Ours, documents of several sentences", ""]
    lines += [f"| sentences | documents {first[2:]}", f"| ---: | ---: {second[6:]}"]
    for count in (1, 2, 5, 10):
        each_texts, each_gold = documents(texts, gold, count)
        _, found = ours(each_texts)
        for confidence in CONFIDENCES:
            lines.append(row(f"{count} | {len(each_texts):,}", each_gold, found, confidence, known))
    return [*lines, ""]


def removed(gold: list[str], found: Found) -> list[str]:
    """What `paragraphs: remove` with `languages: [en]` takes out, were each sentence a paragraph."""
    lines = ["## Paragraphs taken out of English pages (`languages: [en]`, `paragraphs: remove`)", ""]
    lines += [
        "| confidence above | English lines lost | foreign lines taken out | foreign lines left as `und` or `en` |"
    ]
    lines += ["| ---: | ---: | ---: | ---: |"]
    for confidence in CONFIDENCES:
        labels = labels_at(found, confidence)
        english = [label for each, label in zip(gold, labels, strict=True) if each == "en"]
        foreign = [label for each, label in zip(gold, labels, strict=True) if each != "en"]
        lost = sum(label not in ("en", "und") for label in english) / len(english)
        out = sum(label not in ("en", "und") for label in foreign) / len(foreign)
        lines.append(f"| {confidence:g} | {lost:.1%} | {out:.1%} | {1 - out:.1%} |")
    return lines


if __name__ == "__main__":
    main()
