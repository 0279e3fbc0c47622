"""RESULTS.md from what the two sides measured."""

from __future__ import annotations

import statistics
from typing import Any

Row = dict[str, Any]
Side = dict[str, Any]
RULES = ("gopher quality", "gopher repetition", "c4 quality", "fineweb quality")
DEDUP = ("minhash signatures", "minhash buckets and clusters")
BINS = ((0.0, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0), (1.0, 1.01))


def render(rows: list[Row], peer: Side, ours: Side, heading: dict[str, str]) -> str:
    count, theirs, mine = len(rows), peer["seconds"], ours["seconds"]
    megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
    planted = [row for row in rows if row["of"]]

    def speed(title: str, left: float, right: float) -> list[str]:
        return [title, f"{count / left:,.0f}", f"{count / right:,.0f}", f"**{left / right:.1f}x**"]

    def total(seconds: dict[str, float], names: tuple[str, ...], suffix: str = "") -> float:
        return sum(seconds[name + suffix] for name in names)

    speeds = [speed(name, theirs[name], mine[name]) for name in RULES]
    speeds.append(speed("all rules in a row, first drop ends it", theirs["all rules"], mine["all rules"]))
    speeds += [speed(name, theirs[name], mine[name]) for name in DEDUP]
    dedup = (total(theirs, DEDUP), total(mine, DEDUP))
    speeds.append(
        speed("rules and dedup, plain functions", theirs["all rules"] + dedup[0], mine["all rules"] + dedup[1])
    )
    speeds.append(speed("dedup, ours through Beam's in-process runner", dedup[0], mine["dedup on beam"]))
    speeds.append(speed("whole program: read, rules, dedup, write", theirs["pipeline"], mine["pipeline"]))

    words = [
        speed("words of the text: spaCy / white space", theirs["words"], mine["words"]),
        speed("normalised words: spaCy / regex", theirs["normalised words"], mine["normalised words"]),
    ]
    spacy, fast = " on spaCy words", " on fast words"
    words.append(speed("all rules in a row, both given cheap words", theirs["all rules" + fast], mine["all rules"]))
    words.append(
        speed(
            "all rules in a row, both on spaCy's words",
            theirs["all rules"],
            mine["all rules" + spacy] + theirs["words"],
        )
    )
    words.append(speed("dedup, both given cheap words", total(theirs, DEDUP, fast), dedup[1]))
    spacy_dedup = total(mine, DEDUP, spacy) + theirs["normalised words"]
    words.append(speed("dedup, both on spaCy's words", dedup[0], spacy_dedup))

    kept = []
    for name in (*RULES, "all rules"):
        left, right, like = (set(each) for each in (peer["kept"][name], ours["kept"][name], ours["kept"][name + spacy]))
        same, alike = (f"{1 - len(left ^ other) / count:.1%}" for other in (right, like))
        kept.append([name, str(len(left)), str(len(right)), same, alike])
    left, right = (_companions(side["clusters"]["clusters"]) for side in (peer, ours))
    same = f"{1 - sum(left.get(row['id']) != right.get(row['id']) for row in rows) / count:.1%}"
    kept.append(["dedup", *(str(len(side["kept"]["dedup"])) for side in (peer, ours)), same, ""])

    recall = []
    for low, high in BINS:
        pairs = [row for row in planted if low <= row["similarity"] < high]
        if pairs:
            title = "1 (exact)" if low == 1 else f"{low:.1f} to {high:.1f}"
            found = [_found(pairs, side["clusters"]["clusters"]) for side in (peer, ours)]
            recall.append([title, str(len(pairs)), *(f"{n} ({n / len(pairs):.1%})" for n in found)])
    found = [_found(planted, side["clusters"]["clusters"]) for side in (peer, ours)]
    recall.append(["all", str(len(planted)), *(f"**{n} ({n / len(planted):.1%})**" for n in found)])

    mean = ["**mean of 10 draws of the hash functions, pairs that share a band**", str(len(planted))]
    for side in (peer, ours):
        shares = [_share(planted, bands) for bands in side["bands"]]
        mean.append(f"**{statistics.mean(shares):.1%}** ± {statistics.stdev(shares):.1%}")
    recall.append(mean)
    chance = [f"**{side['expected']:.1%}**" for side in (peer, ours)]
    recall.append(["**expected: mean of 1 - (1 - s^8)^14 over pairs, s of each program's own shingles**", "", *chance])

    return f"""# Curation against datatrove 0.10.1

Written by `bench.py` on {heading["date"]}: `{heading["command"]}`
on {heading["machine"]}. {count:,} documents, {megabytes:.1f} MB (sha256 {heading["digest"]}…):
{heading["texts"]}, of which {len(planted)} are planted copies.
Figures are documents per second of processor time of one process, imports and loading of models not counted.
Text extraction is not in them: both call the same library. Same rules at the published thresholds (Gopher quality and
repetition, C4, FineWeb), same MinHash parameters (14 bands of 8 rows, word 5-grams).

## Speed, documents per CPU-second

{_table(["stage", "datatrove", "maxllm", "ratio"], speeds)}

Each rule set alone works on all documents and shares nothing with the others; "in a row" is how pipelines run.
"Whole program" is each one's own runner, one worker: datatrove's local executor (rules to disk, then its four MinHash
stages, JSON lines out) and `maxllm curate` (which also writes rejects, dead letters and the report).

## How much of it is the words

datatrove takes spaCy's tokens for words, which is most of its time; ours are cheaper and not the same words. Given the
same kind of words on both sides, this is left:

{_table(["part", "datatrove", "maxllm", "ratio"], words)}

"Cheap words": datatrove with white-space words and regex sentences in place of spaCy's; its normalisation of text
before hashing (digits, accents, punctuation) stays. "On spaCy's words": ours fed with spaCy's words, and charged with
what spaCy took for all documents. Both split a text once for a row of rules.

## Do they agree

Documents kept by each, and the share of documents on which both say the same: with our words, and with spaCy's. For
dedup: documents whose cluster has exactly the same members. What a word is explains nearly all that differs: to
datatrove a comma is a word without a letter, so that text with code or tables falls under Gopher's 80 %; ours reads
words between white space, as the rule's own wording does ("words contain at least one alphabetic character").

{_table(["stage alone", "datatrove keeps", "maxllm keeps", "same verdict", "same, on spaCy's words"], kept)}

## Recall of planted copies

Copies with 3 % of words edited, by true Jaccard similarity of word 5-grams to their source, and exact ones. Found: in
one cluster with its source. With the same bands and rows one draw of hash functions finds a few more and another a
few less; what the two ways of making shingles differ by is in the last line.

{_table(["similarity", "pairs", "datatrove", "maxllm"], recall)}
"""


def _found(pairs: list[Row], clusters: dict[str, Any]) -> int:
    return sum(row["id"] in clusters and clusters[row["id"]] == clusters.get(row["of"]) for row in pairs)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _companions(clusters: dict[str, Any]) -> dict[str, frozenset[str]]:
    """The members of each document's cluster; documents alone in theirs are left out."""
    members: dict[Any, set[str]] = {}
    for name, cluster in clusters.items():
        members.setdefault(cluster, set()).add(name)
    return {name: frozenset(members[cluster]) for name, cluster in clusters.items() if len(members[cluster]) > 1}


def _share(pairs: list[Row], bands: dict[str, list[Any]]) -> float:
    """Of the pairs, those with an equal band at the same place."""
    found = 0
    for row in pairs:
        both = zip(bands.get(row["id"], []), bands.get(row["of"], []), strict=False)
        found += any(left == right for left, right in both)
    return found / len(pairs)
