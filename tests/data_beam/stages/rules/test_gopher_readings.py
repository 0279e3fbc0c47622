"""Where implementations of Gopher's rules disagree, both readings decide as they say."""

import pytest

from data_beam.stages.rules.gopher import gopher_quality, gopher_repetition
from data_beam.text.signals import Signals
from maxllm.config.rules import GopherQuality, GopherRepetition

NOTHING = GopherQuality(**{name: None for name in GopherQuality.model_fields if name[:4] in ("min_", "max_")})


def reasons(text: str, **settings) -> tuple[str | None, str | None]:
    """By Gopher's reading, by dolma's."""
    drops = [
        gopher_quality(Signals(text), NOTHING.model_copy(update={**settings, "reading": reading}))
        for reading in ("gopher", "dolma")
    ]
    return tuple(drop and drop.reason for drop in drops)


@pytest.mark.parametrize(
    ("text", "settings", "gopher", "dolma"),
    [
        ("ab ab ab abcdefghijkl", {"min_mean_word_length": 3}, None, "gopher.median_word_length"),  # 4.5, 2
        ("abc abc abc a", {"min_mean_word_length": 3}, "gopher.mean_word_length", None),  # 2.5, 3
        ("a b -", {"min_words": 3}, "gopher.word_count", None),
        ("a b c d e f g h i ##", {"max_symbol_word_ratio": 0.1}, "gopher.symbol_word_ratio", None),  # 2 marks, 1 word
        ("a b c d e f g h # …", {"max_symbol_word_ratio": 0.1}, None, "gopher.symbol_word_ratio"),  # 1 and 1, 2 words
        ("• a", {"max_bullet_line_fraction": 0.9}, "gopher.bullet_line_fraction", None),
        (" - a", {"max_bullet_line_fraction": 0.9}, "gopher.bullet_line_fraction", None),  # dolma strips nothing
        ("- a\n\n- b", {"max_bullet_line_fraction": 0.9}, "gopher.bullet_line_fraction", None),  # the blank line counts
        ("a...", {"max_ellipsis_line_fraction": 0.3}, "gopher.ellipsis_line_fraction", None),
        ("a…", {"max_ellipsis_line_fraction": 0.3}, "gopher.ellipsis_line_fraction", "gopher.ellipsis_line_fraction"),
    ],
)
def test_words_symbols_and_lines(text, settings, gopher, dolma):
    assert reasons(text, **settings) == (gopher, dolma)


def test_stop_words_are_counted_once_or_each_time():
    distinct = NOTHING.model_copy(update={"min_stop_words": 2})
    each = distinct.model_copy(update={"count_stop_words": "occurrences"})
    assert gopher_quality(Signals("the dog the"), distinct).reason == "gopher.stop_words"
    assert gopher_quality(Signals("the dog the"), each) is None
    assert gopher_quality(Signals("the dog"), each).value == 1


NO_REPETITION = GopherRepetition(
    max_duplicate_line_fraction=None,
    max_duplicate_paragraph_fraction=None,
    max_duplicate_line_character_fraction=None,
    max_duplicate_paragraph_character_fraction=None,
    max_top_ngram_character_fraction={},
    max_duplicate_ngram_character_fraction={},
)


def repetition(text: str, **settings) -> tuple[float | None, float | None]:
    """The value dropped for by Gopher's reading, by dolma's."""
    drops = [
        gopher_repetition(Signals(text), NO_REPETITION.model_copy(update={**settings, "reading": reading}))
        for reading in ("gopher", "dolma")
    ]
    return tuple(drop and drop.value for drop in drops)


def test_a_repeated_line_counts_from_its_second_time_or_from_its_first():
    # 1 of 5 lines, or 2 of 5; 3 of 23 characters, or 6 of 19.
    text = "one\none\nthree\nfour\nfive"
    assert repetition(text, max_duplicate_line_fraction=0.3) == (None, 0.4)
    assert repetition(text, max_duplicate_line_character_fraction=0.2) == (None, round(6 / 19, 4))


def test_the_most_frequent_pair_is_of_all_characters_or_of_those_of_words():
    # "ab ab" twice: 10 of 44 characters; without spaces 8 of 39.
    text = "ab ab x ab ab " + "y" * 30
    settings = {"max_top_ngram_character_fraction": {2: 0.21}}
    assert repetition(text, **settings) == (round(10 / 44, 4), None)


def test_overlapping_repeats_are_walked_over_or_counted_each():
    # Four equal words: walking, one pair is seen again (2 of 7 characters); each for itself, all three pairs repeat.
    settings = {"max_duplicate_ngram_character_fraction": {2: 0.1}}
    assert repetition("a a a a", **settings) == (round(2 / 7, 4), 1.0)


def test_no_limit_drops_nothing():
    assert repetition("a\n\na\n\na", **{}) == (None, None)
