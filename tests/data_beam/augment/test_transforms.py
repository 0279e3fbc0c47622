from __future__ import annotations

import json
import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_beam.augment.draw import Draw
from data_beam.augment.noise import KEYBOARD, OCR, noisy_characters, noisy_words
from data_beam.augment.synonyms import load_table, with_synonyms
from data_beam.augment.variants import VARIANTS, sentences_of, shuffled_sentences
from maxllm.config.errors import UserError

CHARACTERS = ["keyboard", "ocr", "swap", "delete", "insert"]
WORDS = ["drop", "swap", "repeat"]
TEXT = "The quick brown fox, aged 7, jumps over the lazy dog's house in Zürich.\n\tAnd then?\n\n" * 300


def assert_binomial(changed: int, places: int, rate: float) -> None:
    """Within four and a half standard deviations: one in 150,000 right ones would fail."""
    assert abs(changed - places * rate) < 4.5 * math.sqrt(places * rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["keyboard", "delete", "insert"])
def test_characters_are_hit_at_the_rate(kind, rate):
    text, changed = noisy_characters(TEXT, rate, [kind], Draw(1))
    places = [c for c in TEXT if c.lower() in KEYBOARD] if kind == "keyboard" else [c for c in TEXT if c.isalnum()]
    assert_binomial(changed, len(places), rate)
    assert len(text) - len(TEXT) == {"keyboard": 0, "delete": -changed, "insert": changed}[kind]
    if kind == "keyboard":
        different = [(a, b) for a, b in zip(TEXT, text, strict=True) if a != b]
        assert len(different) == changed
        assert all(b.lower() in KEYBOARD[a.lower()] for a, b in different)
        assert all(a.isupper() == b.isupper() for a, b in different if b.isalpha() and a.isalpha())


def test_swaps_keep_the_letters_and_ocr_takes_look_alikes():
    text, changed = noisy_characters(TEXT, 0.1, ["swap"], Draw(2))
    assert changed and Counter(text) == Counter(TEXT) and text.split() != TEXT.split()
    text, changed = noisy_characters("lO0 mm é", 1.0, ["ocr"], Draw(3))
    assert changed == 5 and text[-1] == "é" and text[0] in OCR["l"] and text.count("rn") == 2


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_words_are_hit_at_the_rate_and_others_stay(rate):
    for kind in WORDS:
        text, changed = noisy_words(TEXT, rate, [kind], Draw(kind))
        before, after = Counter(TEXT.split()), Counter(text.split())
        if kind == "swap":
            assert before == after and changed
            continue
        assert_binomial(changed, before.total(), rate)
        more, less = (before, after) if kind == "drop" else (after, before)
        assert (more - less).total() == changed and not less - more
        assert text.count("\n") == TEXT.count("\n"), "lines stay lines"


def test_synonyms_keep_capitals_and_only_words_of_the_table_change():
    table = {"quick": ("fast", "rapid"), "zürich": ("city",)}
    assert with_synonyms(
        "Quick QUICK quickly, quick-witted Zürich", 1.0, {"quick": ("fast",), "zürich": ("city",)}, Draw()
    )[0] == ("Fast FAST quickly, quick-witted City")
    text, changed = with_synonyms(TEXT, 0.4, table, Draw(5))
    assert_binomial(changed, 600, 0.4)
    assert changed == len(re.findall("fast|rapid|City", text)) == 600 - text.count("quick") - text.count("Zürich")


def test_tables_as_lines_and_as_json(tmp_path):
    (tmp_path / "t.tsv").write_text("# comment\nBig\tlarge\tgreat\nbig\thuge\n\nsame\tsame\n")
    assert load_table(str(tmp_path / "t.tsv")) == {"big": ("large", "great", "huge")}
    (tmp_path / "t.json").write_text(json.dumps({"big": ["large", "great"]}))
    assert load_table(str(tmp_path / "t.json")) == {"big": ("large", "great")}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.tsv", None, "cannot read"),
        ("empty.tsv", "", "no word with a synonym"),
        ("phrase.tsv", "a lot\tmuch\n", "single words"),
        ("bad.json", "{", "not JSON"),
        ("list.json", '["a"]', "not an object of lists"),
        ("latin.tsv", b"caf\xe9\tbar", "cannot read"),
    ],
)
def test_a_table_that_is_none_is_a_sentence(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"synonyms.table: .*{problem}"):
        load_table(str(tmp_path / name))


def test_sentences_by_hand():
    assert sentences_of('One. "Two!" Three? 4.5 is no end')[0] == ["One.", '"Two!"', "Three?", "4.5 is no end"]
    assert sentences_of("一。二！「三。」四")[0] == ["一。", "二！", "「三。」", "四"]


def test_shuffling_keeps_paragraphs_and_their_sentences():
    text = "  A one. A two.  A three!\n\nB one? B two… B three.\n \n\nC"
    results = {shuffled_sentences(text, Draw(seed))[0] for seed in range(40)}
    assert len(results) > 20
    for result in results:
        for before, after in zip(re.split(r"\n\s*\n", text), re.split(r"\n\s*\n", result), strict=True):
            assert Counter(sentences_of(before.strip())[0]) == Counter(sentences_of(after.strip())[0])
            assert [c.isspace() for c in before[:2]] == [c.isspace() for c in after[:2]]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("lower", "Straße ÉCOLE", "straße école"),
        ("upper", "école", "ÉCOLE"),
        ("one_line", " a\tb\n\n c ", "a b c"),
        ("wrapped", "word " * 30, "\n".join(["word " * 14 + "word"[:0]])),
        ("no_punctuation", "It's 5%, isn't it?", "Its 5 isnt it"),
        ("ascii_punctuation", "“a” – ‘b’…", "\"a\" - 'b'..."),
        ("curly_quotes", "\"It's\" ('x')", "“It’s” (‘x’)"),
        ("no_accents", "Zoë naïve Ελλάδα", "Zoe naive Ελλαδα"),
        ("plain", "# T\n- **a** and `b`\n> [x](http://y) *it* 2 * 3 * 4", "T\na and b\nx it 2 * 3 * 4"),
    ],
)
def test_variants_by_hand(kind, text, expected):
    if kind == "wrapped":
        lines = VARIANTS[kind](text).split("\n")
        assert len(lines) == 3 and all(len(line) <= 72 for line in lines) and " ".join(lines).split() == text.split()
    else:
        assert VARIANTS[kind](text) == expected


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.floats(0, 1), st.integers(0, 9))
def test_any_text_survives_every_transform(text, rate, seed):
    for kind in VARIANTS:
        VARIANTS[kind](text).encode()
    noisy, changed = noisy_characters(text, rate, CHARACTERS, Draw(seed))
    assert changed <= sum(c.isalnum() for c in text) and (changed or noisy == text)
    assert [c for c in noisy if c.isspace()] == [c for c in text if c.isspace()]
    noisy, changed = noisy_words(text, rate, WORDS, Draw(seed))
    assert changed <= len(text.split()) and (changed or noisy == text)
    mixed, changed = shuffled_sentences(text, Draw(seed))
    assert Counter(mixed) == Counter(text) and (changed or mixed == text)
    sentences, between = sentences_of(text)
    assert "".join(s + b for s, b in zip(sentences, [*between, ""], strict=True)) == text


def test_draws_are_the_same_everywhere():
    """Golden: another Python or another machine must draw the same."""
    draw = Draw(0, "document", 1, "words")
    assert [draw.below(1000) for _ in range(4)] == [569, 269, 166, 655]
    items = list(range(6))
    draw.shuffle(items)
    assert sorted(items) == list(range(6))
