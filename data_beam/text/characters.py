"""How many characters of a text are of which kind: the counts of the mission's and NeMo Curator's heuristics.

Each is a count over the whole text, white space included, so that its fraction is of all characters.
"""

from __future__ import annotations

import re

# NeMo Curator takes letters and digits of ASCII; here those of any script. Both take new lines and ? ! , . for
# ordinary, and spaces not: in English prose spaces are most of what this counts.
_NON_ALPHANUMERIC = re.compile(r"(?:[^\w\n?!,.]|_)+")
_DIGITS = re.compile(r"\d+")
# From the scheme, or www., to the next white space.
_URLS = re.compile(r"(?:https?://|\bwww\.)\S+", re.IGNORECASE)
_WHITE_SPACE = ("\t", "\n", "\r", "\b", " ")
_BRACKETS = ("(", ")", "[", "]", "{", "}", "⟨", "⟩")


def non_alphanumeric(text: str) -> int:
    return sum(map(len, _NON_ALPHANUMERIC.findall(text)))


def digits(text: str) -> int:
    """Decimal digits of any script."""
    return sum(map(len, _DIGITS.findall(text)))


def in_urls(text: str) -> int:
    return sum(map(len, _URLS.findall(text)))


def white_space(text: str) -> int:
    return sum(map(text.count, _WHITE_SPACE))


def brackets(text: str) -> int:
    return sum(map(text.count, _BRACKETS))
