"""The heuristics at their limits: exactly at one a document stays, a step beyond it goes, null switches it off."""

import pytest

from data_beam.stages.rules.heuristics import heuristic_quality
from data_beam.text.signals import Signals
from maxllm.config.rules import HeuristicQuality

OFF = HeuristicQuality(**{name: None for name in HeuristicQuality.model_fields if name != "enabled"})
CASES = [
    ("min_words", 3, "a b c", "a b -", "word_count"),
    ("max_words", 3, "a b c -", "a b c d", "word_count"),
    ("min_mean_word_length", 3, "abc abc", "abc ab", "mean_word_length"),
    ("max_mean_word_length", 3, "abc abc", "abc abcd", "mean_word_length"),
    ("max_non_alphanumeric_fraction", 0.25, "abc-", "ab--", "non_alphanumeric_fraction"),
    ("max_digit_fraction", 0.15, "1" * 3 + "a" * 17, "1" * 4 + "a" * 16, "digit_fraction"),
    ("max_url_fraction", 0.2, "http://a.b" + " " * 40, "http://a.bc" + " " * 40, "url_fraction"),
    ("max_white_space_fraction", 0.25, "abc ", "ab \n", "white_space_fraction"),
    ("max_bracket_fraction", 0.1, "[aaaaaaaaa", "(aaaaaaa)", "bracket_fraction"),
    (
        "max_boilerplate_paragraph_fraction",
        0.4,
        "\n\n".join(["Terms of Use", "Lorem ipsum", "a", "b", "c"]),
        "\n\n".join(["Terms of Use", "Lorem ipsum", "a", "we use cookies", "c"]),
        "boilerplate_paragraph_fraction",
    ),
    ("max_unended_line_fraction", 0.75, "a\nb\nc\nd.", "a\nb\nc\nd\ne”", "unended_line_fraction"),
    ("max_word_length", 10, "abcdefghij", "abcdefghijk", "word_length"),
]


@pytest.mark.parametrize(("setting", "limit", "stays", "goes", "reason"), CASES)
def test_each_rule_at_its_limit(setting, limit, stays, goes, reason):
    only = OFF.model_copy(update={setting: limit})
    assert heuristic_quality(Signals(stays), only) is None
    drop = heuristic_quality(Signals(goes), only)
    assert drop is not None and drop.reason == f"heuristics.{reason}"
    assert heuristic_quality(Signals(goes), OFF) is None


def test_the_limits_are_the_missions():
    limits = HeuristicQuality()
    assert (limits.min_words, limits.max_words) == (50, 100_000)
    assert (limits.min_mean_word_length, limits.max_mean_word_length) == (3, 10)
    assert limits.max_non_alphanumeric_fraction == 0.25
    assert limits.max_digit_fraction == 0.15
    assert limits.max_url_fraction == 0.20


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800"])
def test_texts_without_words_are_judged_without_an_error(text):
    assert heuristic_quality(Signals(text), HeuristicQuality()) is not None
    heuristic_quality(Signals(text), OFF.model_copy(update={"max_word_length": 10, "max_bracket_fraction": 0.1}))
