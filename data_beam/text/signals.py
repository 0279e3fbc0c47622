"""Everything the rules ask about a text, each part computed once, when first asked for.

What a word is: rules count runs of non-white-space, as Rae et al. 2021 put it ("words contain at least one
alphabetic character" says something only of such runs) and as dolma does; datatrove counts spaCy's tokens, so that a
comma is a word too. Duplicates and evaluation items are compared by normalised words.
What a line is: a line of `str.splitlines`, stripped, and not blank. What a paragraph is: lines between blank ones.
"""

from __future__ import annotations

import re
from functools import cached_property

import numpy as np

from data_beam.text import words as text_words
from data_beam.text.repetition import Repetition, duplicates

_LETTER = re.compile(r"[^\W\d_]")
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*")
# A full stop ends a sentence when what follows does not go on in lower case; "1.5" and "e.g. this" do. The look-behind
# and the possessive quantifiers keep a line of a million dots linear.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s++(?![a-z])|[。！？]++")


def count_sentences(line: str) -> int:
    """Sentences of a stripped line: ends inside it, and the rest. A stand-in for C4's nltk punkt, and much faster."""
    if not line:
        return 0
    ends = 0
    last = 0
    for match in _SENTENCE_END.finditer(line):
        ends += 1
        last = match.end()
    return ends + (last < len(line))


class Signals:
    """The measured text. Attributes are counts and fractions; nothing here knows a threshold."""

    def __init__(self, text: str, words: list[str] | None = None) -> None:
        """`words` replaces the white-space reading, for comparisons with other tokenizers."""
        self.text = text
        if words is not None:
            self.words = words

    # Words

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Distinct words, numbered in order of first occurrence."""
        distinct = dict.fromkeys(self.words)
        return dict(zip(distinct, range(len(distinct)), strict=True))

    @cached_property
    def word_ids(self) -> np.ndarray:
        """int64 [words]"""
        return np.fromiter(map(self.vocabulary.__getitem__, self.words), np.int64, len(self.words))

    @cached_property
    def _word_counts(self) -> np.ndarray:
        return np.bincount(self.word_ids, minlength=len(self.vocabulary))

    @cached_property
    def _vocabulary_lengths(self) -> np.ndarray:
        return np.fromiter(map(len, self.vocabulary), np.int64, len(self.vocabulary))

    @cached_property
    def _alphabetic(self) -> np.ndarray:
        """Which distinct words hold a letter: bool [vocabulary]. Nearly all begin with one."""
        search = _LETTER.search
        return np.array([word[0].isalpha() or search(word) is not None for word in self.vocabulary], bool)

    @cached_property
    def _not_symbols(self) -> np.ndarray:
        """Which distinct words hold a letter or a digit: bool [vocabulary]."""
        search = _LETTER_OR_DIGIT.search
        pairs = zip(self._alphabetic.tolist(), self.vocabulary, strict=True)
        return np.array([letter or search(word) is not None for letter, word in pairs], bool)

    @cached_property
    def word_count(self) -> int:
        """Words that hold a letter or a digit: rows of dashes are not words."""
        return int(self._word_counts[self._not_symbols].sum())

    @cached_property
    def mean_word_length(self) -> float:
        """Characters a word, punctuation attached to it included; 0 for a text without words. (dolma: the median.)"""
        if not self.word_count:
            return 0.0
        return float((self._word_counts * self._vocabulary_lengths)[self._not_symbols].sum() / self.word_count)

    @cached_property
    def alphabetic_word_fraction(self) -> float:
        return self._per_word(float(self._word_counts[self._alphabetic].sum()))

    @cached_property
    def hash_word_ratio(self) -> float:
        return self._per_word(self.text.count("#"))

    @cached_property
    def ellipsis_word_ratio(self) -> float:
        return self._per_word(self.text.count("...") + self.text.count("…"))

    @cached_property
    def newline_word_ratio(self) -> float:
        return self._per_word(self.text.count("\n"))

    def distinct(self, words: frozenset[str]) -> int:
        """How many of the given words occur, each counted once. (dolma counts occurrences.)"""
        return sum(word in self.vocabulary for word in words)

    def _per_word(self, count: float) -> float:
        return count / len(self.words) if self.words else 0.0

    # Lines and paragraphs

    @cached_property
    def lines(self) -> list[str]:
        return [stripped for line in self.text.splitlines() if (stripped := line.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in _PARAGRAPH_BREAK.split(self.text.strip()) if part]

    @cached_property
    def duplicate_lines(self) -> tuple[int, int]:
        """(lines seen before, their characters)"""
        return duplicates(self.lines)

    @cached_property
    def duplicate_paragraphs(self) -> tuple[int, int]:
        return duplicates(self.paragraphs)

    def line_fraction(self, count: float) -> float:
        return count / len(self.lines) if self.lines else 0.0

    def lines_starting(self, prefixes: tuple[str, ...]) -> float:
        """Fraction of lines."""
        return self.line_fraction(sum(line.startswith(prefixes) for line in self.lines))

    def lines_ending(self, suffixes: tuple[str, ...]) -> float:
        """Fraction of lines."""
        return self.line_fraction(sum(line.endswith(suffixes) for line in self.lines))

    def lines_up_to(self, characters: int) -> float:
        """Fraction of lines."""
        return self.line_fraction(sum(len(line) <= characters for line in self.lines))

    def character_fraction(self, characters: float) -> float:
        """Of all characters, white space included."""
        return characters / len(self.text) if self.text else 0.0

    # n-grams

    @cached_property
    def repetition(self) -> Repetition:
        return Repetition(self.word_ids, self._vocabulary_lengths[self.word_ids])

    def top_ngram_character_fraction(self, n: int) -> float:
        return self.character_fraction(self.repetition.top_ngram_characters(n))

    def duplicate_ngram_character_fraction(self, n: int) -> float:
        return self.character_fraction(self.repetition.duplicate_ngram_characters(n))

    # Normalised words, for comparing texts

    @cached_property
    def normalised_words(self) -> list[str]:
        return text_words.normalised_words(self.text)

    @cached_property
    def normalised_hashes(self) -> np.ndarray:
        """uint64 [normalised words]"""
        return text_words.word_hashes(self.normalised_words)


_last: Signals | None = None


def signals_of(text: str) -> Signals:
    """The signals of a text, shared by the stages it passes one after the other in a worker.

    One slot, compared by identity: another thread may replace it between two stages, which costs time, never a wrong
    answer.
    """
    global _last
    last = _last
    if last is None or last.text is not text:
        _last = last = Signals(text)
    return last
