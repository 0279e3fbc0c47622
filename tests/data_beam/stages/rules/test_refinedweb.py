"""RefinedWeb's line-wise corrections: which lines go, what is taken out of short ones, which page goes."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_beam.document import Document, Drop
from data_beam.stages.quality import Quality
from data_beam.stages.rules.refinedweb import refinedweb_lines, refinedweb_page, uppercase
from data_beam.text.signals import Signals
from maxllm.config.rules import QualityConfig, RefinedWebLines

OFF = RefinedWebLines(
    enabled=True,
    max_uppercase_fraction=None,
    drop_numeric_lines=False,
    drop_counter_lines=False,
    min_words_per_line=None,
    max_words_of_edited_line=None,
    max_removed_word_fraction=None,
)


@pytest.mark.parametrize(
    ("setting", "goes", "stays"),
    [
        ({"max_uppercase_fraction": 0.5}, "HOME PAges", "HOME Pages"),  # 6 of 10 characters, and 5
        ({"max_uppercase_fraction": 0.5}, "ÄRGER ÜBER", "ärger ÜBER"),
        ({"drop_numeric_lines": True}, "2024", "2024 was"),
        ({"drop_numeric_lines": True}, "12 30 45", "12:30"),
        ({"drop_counter_lines": True}, "3 likes", "3 likes it"),
        ({"drop_counter_lines": True}, "1,204 Comments »", "Comments"),
        ({"drop_counter_lines": True}, "· 3.2K views ·", "He has 3 followers"),
        ({"min_words_per_line": 2}, "Home", "Home page"),
    ],
)
def test_lines_that_go(setting, goes, stays):
    signals = Signals(f"{goes}\n{stays}")
    assert refinedweb_lines(signals, OFF.model_copy(update=setting)) == [None, stays]
    assert refinedweb_lines(signals, OFF) == [goes, stays]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("Sign-in to see the prices", "to see the prices"),
        ("Please sign-in first", "Please sign-in first"),
        ("The town has a new bridge. Read more...", "The town has a new bridge."),
        ("Read more…", None),
        ("Read more... about it", "Read more... about it"),
        ("You have 3 items in cart now", "You have 3 now"),
        ("one two three four five six seven items in cart", "one two three four five six seven"),  # ten words
        (
            "one two three four five six seven eight items in cart",
            "one two three four five six seven eight items in cart",
        ),
    ],
)
def test_phrases_of_menus_are_taken_out_of_lines_of_up_to_ten_words(line, left):
    assert refinedweb_lines(Signals(line), OFF.model_copy(update={"max_words_of_edited_line": 10})) == [left]
    assert refinedweb_lines(Signals(line), OFF) == [line]


def test_a_page_goes_that_lost_more_than_one_word_in_twenty():
    limits = RefinedWebLines()
    assert limits.max_removed_word_fraction == 0.05
    assert refinedweb_page(100, 5, limits) is None
    assert refinedweb_page(100, 6, limits) == Drop("refinedweb.removed_word_fraction", 0.06)
    assert refinedweb_page(0, 0, limits) is None
    assert refinedweb_page(100, 100, OFF) is None


def test_the_text_comes_back_without_its_lines_and_they_are_counted():
    sets = {"gopher", "repetition", "c4", "fineweb"}
    config = QualityConfig(refinedweb={"enabled": True}, **{name: {"enabled": False} for name in sets})
    prose = "It is a long way to the sea from here, and the road is bad. " * 4
    outcome = Quality(config)(Document("1", f"MENU\n{prose}\n\n3 likes", "test", "2024"))
    assert isinstance(outcome, Document)
    assert outcome.text == prose.strip() and outcome.metadata == {"refinedweb_lines_removed": 2}
    unchanged = Document("1", prose, "test", "2024")
    assert Quality(config)(unchanged) is unchanged


@given(st.text())
def test_upper_case_is_counted_character_by_character(text):
    assert uppercase(text) == sum(c.isupper() for c in text)


@pytest.mark.parametrize("unit", ["3", "3,", "3 ", "#", "A", "- ", "likes ", "sign-in ", "items in cart "])
def test_long_lines_take_no_longer_than_their_length(unit):
    signals = Signals(unit * (1_000_000 // len(unit)))
    start = time.process_time()
    refinedweb_lines(signals, RefinedWebLines())
    assert time.process_time() - start < 3
