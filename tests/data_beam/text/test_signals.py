"""What a text is measured to be: counts by hand, and time that grows with length alone."""

import time

import pytest

from data_beam.text.signals import Signals, count_sentences, signals_of
from data_beam.text.words import ngram_hashes, normalised_words, word_hashes

TEXT = "The cat sat.\n\n-- The dog # ran...  away 42\r\nThe cat sat.\n   \nOver, …"


def test_words_lines_and_paragraphs_are_counted_as_documented():
    signals = Signals(TEXT)
    # The, cat, sat., --, The, dog, #, ran..., away, 42, The, cat, sat., Over,, …
    assert len(signals.words) == 15
    assert signals.word_count == 12  # without --, # and …
    assert signals.mean_word_length == (3 + 3 + 4 + 3 + 3 + 6 + 4 + 2 + 3 + 3 + 4 + 5) / 12
    assert signals.alphabetic_word_fraction == 11 / 15
    assert (signals.hashes, signals.ellipses) == (1, 2)
    assert signals.symbol_word_ratio == 2 / 15
    assert signals.newline_word_ratio == 5 / 15
    assert signals.lines == ["The cat sat.", "-- The dog # ran...  away 42", "The cat sat.", "Over, …"]
    assert signals.paragraphs == ["The cat sat.", "-- The dog # ran...  away 42\r\nThe cat sat.", "Over, …"]
    assert (signals.duplicate_line_count, signals.duplicate_line_characters) == (1, 12)
    assert (signals.duplicate_paragraph_count, signals.duplicate_paragraph_characters) == (0, 0)
    assert signals.bullet_line_fraction == 1 / 4
    assert signals.ellipsis_line_fraction == 1 / 4
    assert signals.short_line_ratio(12) == 3 / 4
    assert (signals.stop_words, signals.stop_word_occurrences) == (0, 0)  # "The" is none


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\t\r\n", "\ufeff", "\ud800", "…", "#"])
def test_texts_without_words_are_measured_without_an_error(text):
    signals = Signals(text)
    assert signals.word_count == 0 and signals.mean_word_length == 0
    assert signals.alphabetic_word_fraction == 0
    assert signals.duplicate_ngram_character_fraction(5) == 0
    assert 0 <= signals.top_ngram_character_fraction(2) <= 1
    assert len(signals.normalised_hashes) == 0


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("", 0),
        ("One.", 1),
        ("One", 1),
        ("One. Two", 2),
        ("One. Two! Three?", 3),
        ('He said "Go." Then left.', 2),
        ("It costs 1.5 or so, e.g. this much.", 1),
        ("What?! Really...  Yes.", 3),
        ("一つ。二つ！", 2),
    ],
)
def test_sentences_are_counted_at_their_ends(line, sentences):
    assert count_sentences(line) == sentences


def test_normalised_words_ignore_case_punctuation_and_white_space():
    assert normalised_words("Don't STOP —\n now, 3.5!") == ["don", "t", "stop", "now", "3", "5"]
    assert normalised_words("Ünïcode été 東京") == ["ünïcode", "été", "東京"]


def test_ngram_hashes_equal_exactly_where_ngrams_do():
    words = "a b c a b c b a c a b".split()
    for n in (1, 2, 3, 5):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        hashes = ngram_hashes(word_hashes(words), n).tolist()
        assert len(hashes) == len(grams)
        assert len(set(hashes)) == len(set(grams)) == len(set(zip(grams, hashes, strict=True)))
    assert len(ngram_hashes(word_hashes(words), 12)) == 0


def test_a_text_is_measured_once_for_all_the_stages_it_passes():
    text = "some words here"
    assert signals_of(text) is signals_of(text)
    assert signals_of("other words") is not signals_of(text)


@pytest.mark.parametrize(
    "unit", ["w1 w2 w3 ", "a ", "a b c d e f g ", "x", ".", ". ", "\n", "\n ", "ab. \n", "1", '."', "[1", "?! "]
)
def test_a_line_of_two_million_characters_takes_seconds_not_hours(unit):
    text = unit * (2_000_000 // len(unit))
    start = time.process_time()
    signals = Signals(text)
    signals.top_ngram_character_fraction(2)
    signals.duplicate_ngram_character_fraction(10)
    _ = signals.paragraphs, signals.duplicate_line_count, signals.alphabetic_words, signals.normalised_hashes
    _ = signals.non_alphanumeric_characters, signals.digit_characters, signals.url_characters, signals.dolma
    for line in signals.lines[:1000]:
        count_sentences(line)
    assert time.process_time() - start < 6
