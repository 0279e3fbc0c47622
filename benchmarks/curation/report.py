"""RESULTS.md from what the sides measured on each corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
RULES = ("gopher quality", "gopher repetition", "c4 quality", "fineweb quality")
DEDUP = ("minhash signatures", "minhash buckets and clusters")
SPACY, FAST = " on spaCy words", " on fast words"


@dataclass
class Corpus:
    """What was measured on one corpus: `sides` are datatrove, dolma and ours."""

    title: str
    digest: str
    rows: list[Row]
    sides: dict[str, Any]

    def seconds(self, side: str, *names: str, without: str | None = None) -> float:
        taken = self.sides[side]["seconds"]
        return sum(taken[name] for name in names) - (taken[without] if without else 0.0)

    def speed(self, left: float, right: float) -> list[str]:
        count = len(self.rows)
        if min(left, right) < 0.02:  # what is left when a program's start is subtracted may be noise
            return ["-", "-", "-"]
        return [f"{count / left:,.0f}", f"{count / right:,.0f}", f"**{left / right:.1f}x**"]


def render(corpora: list[Corpus], heading: dict[str, str]) -> str:
    names = [corpus.title for corpus in corpora]
    about = "\n".join(
        f"- **{each.title}**: {len(each.rows):,} documents, {_megabytes(each.rows):.1f} MB, of which "
        f"{sum(bool(row['of']) for row in each.rows)} are planted copies (sha256 {each.digest}…)"
        for each in corpora
    )
    starts = {
        name: sum(each.seconds(*name) for each in corpora) / len(corpora)
        for name in (
            ("ours", "start of a job"),
            ("ours", "pipeline, start"),
            ("dolma", "tag, start"),
            ("dolma", "dedupe, start"),
        )
    }
    start = [f"{seconds:.1f} s" for seconds in starts.values()]

    def speeds(peer: str, rows: list[tuple[str, Any]]) -> str:
        header = ["", *(f"{name}: {column}" for name in names for column in (peer, "maxllm", "ratio"))]
        return table(header, [[title, *(cell for each in corpora for cell in pair(each))] for title, pair in rows])

    return f"""# Curation against datatrove 0.10.1 and dolma 1.2.1

Written by `bench.py` on {heading["date"]}: `{heading["command"]}`
on {heading["machine"]}.

{about}

Figures are documents per second of processor time of one process and its children; imports and loading of models are
not counted. Text extraction is not in them: all call the same libraries. Recall and precision of near duplicates have
a measurement of their own, `benchmarks/dedup`.

## Beside datatrove

The same rules at the published thresholds (Gopher quality and repetition, C4, FineWeb), the same MinHash (14 bands of 8
rows, word 5-grams).

{speeds("datatrove", _datatrove())}

Each rule set alone works on all documents and shares nothing with the others; "in a row" is how pipelines run.
"Phase on Beam": the job of `maxllm curate`, less the {start[0]} that a job takes for ten documents. "Whole program":
each one's own runner, one worker: datatrove's local executor (rules to disk, then its four MinHash stages, JSON lines
out) and `maxllm curate` (which also writes rejects, dead letters and the report), of which {start[1]} are its start.

## How much of it is the words

datatrove takes spaCy's tokens for words, which is most of its time; ours are cheaper and not the same words. Given the
same kind of words on both sides, this is left:

{speeds("datatrove", _words())}

"Cheap words": datatrove with white-space words and regex sentences in place of spaCy's; its normalisation of text
before hashing (digits, accents, punctuation) stays. "On spaCy's words": ours fed with spaCy's words, and charged with
what spaCy took for all documents. Both split a text once for a row of rules.

## Beside dolma

{speeds("dolma", _dolma())}

dolma's taggers write every number of a rule set and decide nothing, so ours computes the same numbers
(`benchmarks/rules` compares them) and, in the second row, the verdict alone. For `c4_v1` ours runs C4's rules and
dolma's own list of words. dolma's only deduplication is a Bloom filter over texts or paragraphs, written in Rust: it
finds exact copies, keeps the first it meets, and may take a few texts for copies that are none; ours keeps the oldest,
whatever the order. The programs' starts, {start[2]} for `dolma tag` and {start[3]} for `dolma dedupe`, are subtracted,
and ours too. `-`: too little processor time to tell.

## Do they agree

Documents kept by each, and the share of documents on which both say the same: with our words, and with spaCy's. For
dedup: documents whose cluster has exactly the same members. What a word is explains nearly all that differs: to
datatrove a comma is a word without a letter, so that text with code or tables falls under Gopher's 80 %; ours reads
words between white space, as the rule's own wording does ("words contain at least one alphabetic character").

{_agreement(corpora)}
"""


def _datatrove() -> list[tuple[str, Any]]:
    def both(*names: str) -> Any:
        return lambda each: each.speed(each.seconds("datatrove", *names), each.seconds("ours", *names))

    def on_beam(each: Corpus) -> list[str]:
        ours = each.seconds("ours", "dedup on beam", without="start of a job")
        return each.speed(each.seconds("datatrove", *DEDUP), ours)

    return [
        *((name, both(name)) for name in RULES),
        ("Gopher, C4 and FineWeb in a row, first drop ends it", both("all rules")),
        *((name, both(name)) for name in DEDUP),
        ("MinHash 14x8, functions", both(*DEDUP)),
        ("MinHash 14x8, ours as the phase on Beam", on_beam),
        ("rules and MinHash, functions", both("all rules", *DEDUP)),
        ("whole program: read, rules, MinHash, write", both("pipeline")),
    ]


def _words() -> list[tuple[str, Any]]:
    def pair(theirs: tuple[str, ...], mine: tuple[str, ...], spacy: str | None = None) -> Any:
        def speed(each: Corpus) -> list[str]:
            charged = each.seconds("datatrove", spacy) if spacy else 0.0
            return each.speed(each.seconds("datatrove", *theirs), each.seconds("ours", *mine) + charged)

        return speed

    def with_(suffix: str, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name + suffix for name in names)

    rules = ("all rules",)
    return [
        ("words of the text: spaCy / white space", pair(("words",), ("words",))),
        ("normalised words: spaCy / regex", pair(("normalised words",), ("normalised words",))),
        ("all rules in a row, both given cheap words", pair(with_(FAST, rules), rules)),
        ("all rules in a row, both on spaCy's words", pair(rules, with_(SPACY, rules), "words")),
        ("MinHash 14x8, both given cheap words", pair(with_(FAST, DEDUP), DEDUP)),
        ("MinHash 14x8, both on spaCy's words", pair(DEDUP, with_(SPACY, DEDUP), "normalised words")),
    ]


def _dolma() -> list[tuple[str, Any]]:
    def tagger(name: str, ours: str) -> tuple[str, Any]:
        return ours, lambda each: each.speed(each.seconds("dolma", name), each.seconds("ours", f"dolma {ours}"))

    def command(name: str) -> Any:
        return lambda each: each.speed(
            each.seconds("dolma", f"{name}, all", without=f"{name}, start"),
            each.seconds("ours", f"dolma {name}", without=f"dolma {name}, start"),
        )

    def exact(each: Corpus) -> list[str]:
        theirs = each.seconds("dolma", "dedupe, all", without="dedupe, start")
        return each.speed(theirs, each.seconds("ours", "exact on beam"))

    return [
        ("gopher_v1: every number", tagger("gopher_v1", "gopher_v1")[1]),
        ("gopher_v1: ours to the verdict only", tagger("gopher_v1", "gopher_v1, verdict")[1]),
        ("c4_v1", tagger("c4_v1", "c4_v1")[1]),
        ("program, Gopher and C4: `dolma tag` / `maxllm curate`", command("tag")),
        ("program, exact copies: `dolma dedupe` / `maxllm curate`", command("dedupe")),
        ("exact copies: `dolma dedupe` / the phase on Beam, with its start", exact),
    ]


def _agreement(corpora: list[Corpus]) -> str:
    rows = []
    for corpus in corpora:
        count, peer, ours, dolma = len(corpus.rows), *(corpus.sides[name] for name in ("datatrove", "ours", "dolma"))
        for name in (*RULES, "all rules"):
            kept = (peer["kept"][name], ours["kept"][name], ours["kept"][name + SPACY])
            left, right, like = map(set, kept)
            same = [f"{1 - len(left ^ other) / count:.1%}" for other in (right, like)]
            rows.append([f"{corpus.title}, {name}", str(len(left)), str(len(right)), *same])
        left, right = (_companions(side["clusters"]["clusters"]) for side in (peer, ours))
        same = f"{1 - sum(left.get(row['id']) != right.get(row['id']) for row in corpus.rows) / count:.1%}"
        kept = [str(len(side["kept"]["dedup"])) for side in (peer, ours)]
        rows.append([f"{corpus.title}, MinHash", *kept, same, ""])
        kept = [str(len(side["kept"]["exact"])) for side in (dolma, ours)]
        rows.append([f"{corpus.title}, exact copies (dolma)", *kept, "", ""])
    return table(["corpus, stage alone", "they keep", "maxllm keeps", "same verdict", "same, on spaCy's words"], rows)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _megabytes(rows: list[Row]) -> float:
    return sum(len(row["text"].encode()) for row in rows) / 1e6


def _companions(clusters: dict[str, Any]) -> dict[str, frozenset[str]]:
    """The members of each document's cluster; documents alone in theirs are left out."""
    members: dict[Any, set[str]] = {}
    for name, cluster in clusters.items():
        members.setdefault(cluster, set()).add(name)
    return {name: frozenset(members[cluster]) for name, cluster in clusters.items() if len(members[cluster]) > 1}
