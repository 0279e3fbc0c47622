"""A text as fastText reads it: one line of words."""

from __future__ import annotations

import re

# The head of a text decides: a 50 MB page must not cost a minute. Ten times what a long article has.
CHARACTERS_READ = 100_000
WORDS = re.compile(r"\w+|[^\w\s]")
LABEL = "__label__"


def bare_line(text: str) -> str:
    """White space made single spaces and nothing else: for models that others trained on raw text."""
    # Characters in no encoding would stop fastText.
    return " ".join(text[:CHARACTERS_READ].encode("utf-8", "replace").decode("utf-8").split())


def line_of(text: str) -> str:
    """Lower case, punctuation apart from words: what our own models are trained on and read.

    A word that looks like fastText's mark of a label loses it, or a text could label itself.
    """
    lowered = text[:CHARACTERS_READ].encode("utf-8", "replace").decode("utf-8").lower()
    line = " ".join(WORDS.findall(lowered))
    return line.replace(LABEL, "label") if LABEL in line else line
