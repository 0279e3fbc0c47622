"""Word lists: how often a text says one of them.

The rule is that of C4's code (c4_utils.py of tensorflow_datasets): the text in lower case; a word counts where no word
character touches it, except in languages that do not put spaces between words.
"""

from __future__ import annotations

from collections.abc import Iterable

import ahocorasick

from data_beam.classify.classifier import fingerprint

# Written without spaces between words.
NO_SPACES = frozenset({"ja", "th", "zh"})
# Parts of so many ordinary words that C4's code takes them off these lists.
ALLOWED = {"ja": frozenset({"sm", "グロ", "女の子"}), "zh": frozenset({"性"})}


class WordMatcher:
    """All words of a list looked for at once (Aho and Corasick 1975): the time does not grow with the list."""

    def __init__(self, words: Iterable[str], language: str) -> None:
        """`language`: its code decides whether words must stand alone. A list of nothing matches nothing."""
        self._whole = language.split("-")[0] not in NO_SPACES
        allowed = ALLOWED.get(language, frozenset())
        self._automaton = ahocorasick.Automaton()
        listed = sorted({word.strip().lower() for word in words} - allowed - {""})
        for word in listed:
            self._automaton.add_word(word, len(word))
        self.version = fingerprint(language, *listed)
        self._size = len(self._automaton)
        if self._size:
            self._automaton.make_automaton()

    def __len__(self) -> int:
        return self._size

    def count(self, text: str) -> int:
        """Occurrences of listed words; one inside another counts too."""
        if not self._size:
            return 0
        text = text.lower()
        found = self._automaton.iter(text)
        if not self._whole:
            return sum(1 for _ in found)
        return sum(1 for end, length in found if _stands_alone(text, end + 1 - length, end + 1))


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (start and _in_word(text[start - 1])) and not (end < len(text) and _in_word(text[end]))


def _in_word(character: str) -> bool:
    r"""As `\w` of Python's re."""
    return character.isalnum() or character == "_"
