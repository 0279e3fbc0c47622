"""RESULTS.md from what all sides found."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

from planted import jaccard, shingles

Row = dict[str, Any]
Clusters = dict[str, Any]
BINS = ((0.0, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0), (1.0, 1.01))
NAMES = {"datatrove": "datatrove", "text-dedup": "text-dedup", "fineweb": "maxllm"}


def render(rows: list[Row], sides: dict[str, Any], heading: dict[str, str]) -> str:
    clusters: dict[str, Clusters] = {}
    for side in sides.values():
        clusters |= side["clusters"]
    sets = {row["id"]: shingles(row["text"]) for row in rows}
    megabytes = sum(len(row["text"].encode()) for row in rows) / 1e6
    pairs = [(row["id"], row["of"], jaccard(sets[row["id"]], sets[row["of"]])) for row in rows if row["of"]]
    presets = [name for name in clusters if name not in NAMES]

    recall = []
    for low, high in (*BINS, (0.0, 1.01)):
        chosen = [pair for pair in pairs if low <= pair[2] < high]
        if not chosen:
            continue
        title = {(1.0, 1.01): "1", (0.0, 1.01): "**all**"}.get((low, high), f"{low:.1f} to {high:.1f}")
        theory = sum(1 - (1 - s**8) ** 14 for _, _, s in chosen) / len(chosen)
        found = [sum(together(clusters[name], a, b) for a, b, _ in chosen) for name in (*NAMES, *presets)]
        recall.append([title, str(len(chosen)), f"{theory:.1%}", *(f"{count / len(chosen):.1%}" for count in found)])

    precision = []
    for name in (*NAMES, *presets):
        groups = members(clusters[name])
        likeness = [jaccard(sets[a], sets[b]) for group in groups for a, b in combinations(group, 2)]
        nearest = [max(jaccard(sets[a], sets[b]) for b in group if b != a) for group in groups for a in group]
        precision.append(
            [
                NAMES.get(name, f"maxllm, {name}"),
                str(sum(len(group) - 1 for group in groups)),
                str(max(map(len, groups))),
                str(len(likeness)),
                *(f"{sum(s >= limit for s in likeness) / len(likeness):.1%}" for limit in (0.8, 0.7, 0.5)),
                str(sum(s < 0.5 for s in likeness)),
                str(sum(s < 0.5 for s in nearest)),
            ]
        )

    theirs, other, mine = (sides[name]["seconds"] for name in ("datatrove", "text_dedup", "ours"))
    count = len(rows)

    def speed(title: str, left: float, right: float) -> list[str]:
        return [title, f"{count / left:,.0f}", f"{count / right:,.0f}", f"**{left / right:.1f}x**"]

    stages = ("minhash signatures", "minhash buckets and clusters")
    both = sum(theirs[name] for name in stages)
    fast = [theirs[f"{name} on fast words"] for name in stages]
    start = mine["start of a job"]
    beam = mine["on beam"] - start
    spacy = mine["signatures on spaCy words"] + theirs["words"]
    speeds = [
        speed("signatures: datatrove", theirs[stages[0]], mine["signatures"]),
        speed("clusters: datatrove", theirs[stages[1]], mine["clusters"]),
        speed("signatures and clusters, functions: datatrove", both, mine["signatures"] + mine["clusters"]),
        speed("the same, ours as the phase of `maxllm curate` on Beam: datatrove", both, beam),
        speed("like for like, signatures, both given cheap words: datatrove", fast[0], mine["signatures"]),
        speed("like for like, both given cheap words, ours on Beam: datatrove", sum(fast), beam),
        speed("like for like, signatures, both on spaCy's words: datatrove", theirs[stages[0]], spacy),
        speed("whole command: text-dedup", other["command"], beam),
    ]
    alone = [[name, f"{count / mine[f'preset {name}']:,.0f}"] for name in ("fineweb", *presets)]

    return f"""# Near duplicates, against datatrove 0.10.1 and text-dedup 0.4.0

Written by `bench.py` on {heading["date"]}: `{heading["command"]}`
on {heading["machine"]}.
{count:,} documents, {megabytes:.1f} MB (sha256 {heading["digest"]}…): {heading["texts"]}, of which {len(pairs)} are
copies with 0 to 8 % of their words edited. All three: 14 bands of 8 rows over word 5-grams, 112 hashes. maxllm's other
columns are presets of `configs/curate/dedup/`. Likeness is the Jaccard similarity of sets of normalised word 5-grams.

## Recall: planted copies that end in one cluster with their source

{table(["likeness", "pairs", "1-(1-s^8)^14", *NAMES.values(), *presets], recall)}

Bands of 8 rows reach below their threshold of 0.72 by design; a chain of look-alikes joins a few more. What differs
between the three is the draw of the hash functions, and what a word is (spaCy's tokens, `\\W+`, `\\w+`).

## Precision: pairs that ended in one cluster, by their true likeness

Pairs include those joined only through others. "Merged wrongly": documents whose nearest neighbour in their own
cluster is less than half like them.

{
        table(
            ["", "removed", "largest cluster", "pairs", "≥ 0.8", "≥ 0.7", "≥ 0.5", "pairs < 0.5", "merged wrongly"],
            precision,
        )
    }

## Speed, documents per second of processor time, one process, imports not counted

{table(["", "theirs", "maxllm", "ratio"], speeds)}

"Cheap words": datatrove with white-space words in place of spaCy's, which are most of its time. "On spaCy's words":
ours fed with spaCy's words and charged with their making. text-dedup's command loads, hashes, clusters and writes;
what it takes on ten documents is subtracted. So it is from ours on Beam: a job costs {start:.1f} s before its first
document.

maxllm alone, signatures by preset:

{table(["", "documents per CPU-second"], alone)}
"""


def together(clusters: Clusters, left: str, right: str) -> bool:
    return left in clusters and clusters[left] == clusters.get(right)


def members(clusters: Clusters) -> list[list[str]]:
    groups = defaultdict(list)
    for name, cluster in clusters.items():
        groups[cluster].append(name)
    return [group for group in groups.values() if len(group) > 1]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
