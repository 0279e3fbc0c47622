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

from data_beam.text import characters, marks
from data_beam.text import words as text_words
from data_beam.text.dolma import dolma_counts
from data_beam.text.ratios import DolmaRatios, Ratios
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


class Signals(Ratios):
    """The measured text. Attributes are counts; nothing here knows a threshold.

    Kept are the parts that several counts share; a count itself is asked for once by a rule, and keeping it would cost
    more than most of them (Python 3.11 locks a cached property).
    """

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
    def word_lengths(self) -> np.ndarray:
        """Characters of each word, int64 [words]"""
        return self._vocabulary_lengths[self.word_ids]

    def occurrences(self, word: str) -> int:
        number = self.vocabulary.get(word)
        return 0 if number is None else int(self._word_counts[number])

    @property
    def split_words(self) -> int:
        return len(self.words)

    @cached_property
    def word_count(self) -> int:
        return int(self._word_counts[self._not_symbols].sum())

    @property
    def word_characters(self) -> int:
        return int((self._word_counts * self._vocabulary_lengths)[self._not_symbols].sum())

    @property
    def alphabetic_words(self) -> int:
        return int(self._word_counts[self._alphabetic].sum())

    @property
    def longest_word(self) -> int:
        return int(self._vocabulary_lengths.max(initial=0))

    @property
    def stop_words(self) -> int:
        return sum(word in self.vocabulary for word in marks.STOP_WORDS)

    @property
    def stop_word_occurrences(self) -> int:
        return sum(self.occurrences(word) for word in marks.STOP_WORDS)

    # Lines and paragraphs

    @cached_property
    def lines(self) -> list[str]:
        return [stripped for line in self.text.splitlines() if (stripped := line.strip())]

    @property
    def line_count(self) -> int:
        return len(self.lines)

    def _lines_ending(self, suffixes: tuple[str, ...]) -> int:
        return sum(line.endswith(suffixes) for line in self.lines)

    @property
    def bullet_lines(self) -> int:
        return sum(line.startswith(marks.BULLETS) for line in self.lines)

    @property
    def ellipsis_lines(self) -> int:
        return self._lines_ending(marks.ELLIPSES)

    @property
    def punctuated_lines(self) -> int:
        return self._lines_ending(marks.SENTENCE_PUNCTUATION)

    @property
    def end_mark_lines(self) -> int:
        return self._lines_ending(marks.END_MARKS)

    def short_lines(self, length: int) -> int:
        return sum(len(line) <= length for line in self.lines)

    @cached_property
    def _duplicate_lines(self) -> tuple[int, int]:
        return duplicates(self.lines)

    @property
    def duplicate_line_count(self) -> int:
        return self._duplicate_lines[0]

    @property
    def duplicate_line_characters(self) -> int:
        return self._duplicate_lines[1]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in _PARAGRAPH_BREAK.split(self.text.strip()) if part]

    @property
    def paragraph_count(self) -> int:
        return len(self.paragraphs)

    @cached_property
    def _duplicate_paragraphs(self) -> tuple[int, int]:
        return duplicates(self.paragraphs)

    @property
    def duplicate_paragraph_count(self) -> int:
        return self._duplicate_paragraphs[0]

    @property
    def duplicate_paragraph_characters(self) -> int:
        return self._duplicate_paragraphs[1]

    @property
    def boilerplate_paragraphs(self) -> int:
        lowered = self.text.lower()
        phrases = [phrase for phrase in marks.BOILERPLATE_PHRASES if phrase in lowered]
        if not phrases:
            return 0
        return sum(any(phrase in paragraph.lower() for phrase in phrases) for paragraph in self.paragraphs)

    # Characters

    @property
    def characters(self) -> int:
        return len(self.text)

    @property
    def newlines(self) -> int:
        return self.text.count("\n")

    @property
    def hashes(self) -> int:
        return self.text.count("#")

    @property
    def ellipses(self) -> int:
        return self.text.count("...") + self.text.count("…")

    @property
    def non_alphanumeric_characters(self) -> int:
        return characters.non_alphanumeric(self.text)

    @property
    def digit_characters(self) -> int:
        return characters.digits(self.text)

    @property
    def url_characters(self) -> int:
        return characters.in_urls(self.text)

    @property
    def white_space_characters(self) -> int:
        return characters.white_space(self.text)

    @property
    def bracket_characters(self) -> int:
        return characters.brackets(self.text)

    # n-grams

    @cached_property
    def repetition(self) -> Repetition:
        return Repetition(self.word_ids, self.word_lengths)

    def top_ngram_characters(self, n: int) -> int:
        return self.repetition.top_ngram_characters(n)

    def duplicate_ngram_characters(self, n: int) -> int:
        return self.repetition.duplicate_ngram_characters(n)

    @cached_property
    def dolma(self) -> DolmaRatios:
        return DolmaRatios(dolma_counts(self))

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
