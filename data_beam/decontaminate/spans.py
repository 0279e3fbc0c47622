"""Where in a text its normalised words stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_SPANS = 20  # of one item in one document
MAX_CHARACTERS = 500  # of a span's excerpt

_WORD = re.compile(r"\w+")


def word_places(text: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each of `normalised_words(text)`."""
    lowered = text.lower()
    places = [match.span() for match in _WORD.finditer(lowered)]
    if len(lowered) == len(text):
        return places
    # "İ" becomes two characters in lower case: back from those to the text's own.
    origin = [place for place, character in enumerate(text) for _ in character.lower()]
    return [(origin[start], origin[end - 1] + 1) for start, end in places]


def spans(
    text: str, places: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]]
) -> list[dict[str, int | str]]:
    """The first ranges of words as characters [start, end) and the text there, which may be cut short."""
    found: list[dict[str, int | str]] = []
    for first, last in ranges[:MAX_SPANS]:
        start, end = places[first][0], places[last - 1][1]
        found.append({"start": start, "end": end, "text": text[start : min(end, start + MAX_CHARACTERS)]})
    return found
