"""Characters are counted by kind as documented, in every script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_beam.text import characters


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("abc 1.", 1),
        ("a?b!c,d.\ne", 0),
        ("a_b-c", 2),
        ("été 東京", 1),
        ("(a) «b»", 5),
        ("\t\r\n", 2),
        ("", 0),
        ("😀a", 1),
    ],
)
def test_what_is_not_alphanumeric(text, others):
    assert characters.non_alphanumeric(text) == others


@pytest.mark.parametrize(("text", "count"), [("a1b22", 3), ("१२ x", 2), ("½²", 0), ("no", 0)])
def test_digits(text, count):
    assert characters.digits(text) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("see http://a.b/c?d=1 now", 16),
        ("HTTPS://A.B\nwww.x.org.", 11 + 10),
        ("awww.no", 0),
        ("http:// x", 0),
        ("(https://a.b)", 12),
    ],
)
def test_urls_go_on_to_the_next_white_space(text, count):
    assert characters.in_urls(text) == count


@given(st.text())
def test_each_kind_is_what_its_characters_are_one_by_one(text):
    ordinary = [c.isalnum() or c in "\n?!,." for c in text]
    # `re` takes for a letter what isalnum() does.
    assert characters.non_alphanumeric(text) == ordinary.count(False)
    assert characters.digits(text) == sum(c.isdecimal() for c in text)
    assert characters.white_space(text) == sum(c in "\t\n\r\b " for c in text)
    assert characters.brackets(text) == sum(c in "()[]{}⟨⟩" for c in text)
