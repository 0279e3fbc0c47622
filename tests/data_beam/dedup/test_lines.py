"""Lines and paragraphs stay in the oldest document that has them, whatever the bundles and however common the line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_beam.dedup import lines
from data_beam.dedup.lines import LineDedup, key_of, normalised, pieces
from data_beam.document import Document, Drop, Edit
from data_beam.verdicts import cut
from maxllm.config.dedup import LineDedupConfig

EVERY = LineDedupConfig(min_words=0, normalise=False)


def slow_twin(documents: list[Document], config: LineDedupConfig) -> dict[str, Drop | Edit]:
    """Documents one after the other, oldest first, and everything seen so far in one set."""
    seen, found = set(), {}
    for document in sorted(documents, key=lambda document: document.age_key):
        lost = set()
        for start, end in pieces(document.text, config.unit):
            key = key_of(document.text[start:end], config)
            if key is not None and key in seen:
                lost |= set(range(start, end))
            seen.add(key)
        if not lost:
            continue
        fraction = len(lost) / len(document.text)
        if config.max_fraction_removed is not None and fraction > config.max_fraction_removed:
            found[document.id] = Drop("line_dedup.mostly_duplicate", round(fraction, 4))
            continue
        starts, ends = sorted(i for i in lost if i - 1 not in lost), sorted(i + 1 for i in lost if i + 1 not in lost)
        found[document.id] = Edit("line_dedup.seen_before", tuple(zip(starts, ends, strict=True)))
    return found


def corpus(seed: int, count: int) -> list[Document]:
    rng = random.Random(seed)
    letters = str.maketrans("0123456789", "abcdefghij")  # digits are all alike
    common = [f"This line number {letter} is on many pages." for letter in "abcdefghijkl"]
    documents = []
    for number in range(count):
        name = str(number).translate(letters)
        own = [f"Only document {name} says {word} these things." for word in ("all", "one", "more")]
        text = rng.sample(
            own + rng.choices(common, k=rng.randrange(7)) + ["Share on Twitter", "short", "", "Ünïcode LINE, again!"], 7
        )
        documents.append(Document(f"{number:032x}", "\n".join(text), "s", f"20{rng.randrange(10, 25)}-01-01"))
    return documents


@pytest.mark.parametrize("fraction", [None, 0.4])
@pytest.mark.parametrize("held", [100_000, 5])  # bundles that pass on what they hold once, and many times over
def test_line_dedup_equals_one_pass_over_sorted_documents(collect, monkeypatch, held, fraction):
    monkeypatch.setattr(lines, "HELD", held)
    documents, config = corpus(1, 60), LineDedupConfig(max_fraction_removed=fraction)
    expected = slow_twin(documents, config)
    assert {type(verdict) for verdict in expected.values()} == ({Edit} if fraction is None else {Edit, Drop})
    found = collect(LineDedup(config), documents)
    assert len(found) == len(expected) and dict(found) == expected


def test_paragraphs_and_what_stays_by_hand(collect):
    old = Document("old", "The same words.\nTwo lines of them.\n\nOnly here is this.", "s", "2010-01-01")
    new = Document(
        "new", "At first something new.\n\nthe SAME words,\nTwo lines of them!\n \n\nLast words.", "s", "2020-01-01"
    )
    twice = Document("twice", "Ever and ever again.\nA\nEver and ever again.\n", "s", "2020-01-01")
    found = dict(collect(LineDedup(LineDedupConfig(unit="paragraph")), [new, twice, old]))
    assert set(found) == {"new"} and cut(new.text, found["new"].remove) == "At first something new.\n\nLast words."
    found = dict(collect(LineDedup(LineDedupConfig()), [new, twice, old]))
    assert cut(new.text, found["new"].remove) == "At first something new.\n\n \n\nLast words."
    assert cut(twice.text, found["twice"].remove) == "Ever and ever again.\nA\n"
    exact = dict(collect(LineDedup(LineDedupConfig(normalise=False)), [new, twice, old]))
    assert set(exact) == {"twice"}


@given(text=st.text(alphabet="ab \n\t\r\x0b\u2028é", max_size=60))
def test_pieces_hold_every_character_that_is_not_blank_once(text):
    for unit in ("line", "paragraph"):
        spans = list(pieces(text, unit))
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
        assert not cut(text, spans).strip()
        assert all(text[start:end].strip() for start, end in spans)


def test_normalised_lines():
    assert normalised("  Page 12 of 345 — Éric's  café…") == "page 00 of 000 erics cafe"
    assert normalised("---***---") == "" and key_of("- - - - -", LineDedupConfig()) is None
    short = LineDedupConfig(min_words=3, min_characters=10)
    assert key_of("two words", short) is None  # 9 characters
    assert key_of("ten chars!", short) and key_of("a b c", short)
    assert key_of("日本語の文章がここに続く", short) and key_of("日本語の文", short) is None
    assert key_of("\ud800 lone surrogate", EVERY)
