"""What rules compare with their limits, as ratios of counts; and the counts as they are stored with a document.

`Signals` takes the counts from a text, each when first asked for; `StoredSignals` has them from a document's metadata.
Counts are whole numbers, so that what is stored is short and a ratio of stored counts is the same float to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

# n of the n-grams whose repetition is measured: Gopher's 2 to 4 (most frequent one) and 5 to 10 (duplicates).
NGRAMS = range(2, 11)

# What FineWeb's rules need, which come after lines were removed.
LINE_COUNTS = (
    "characters",
    "newlines",
    "split_words",
    "line_count",
    "punctuated_lines",
    "duplicate_line_characters",
)


class Ratios(ABC):
    """Counts are attributes; what is a fraction of nothing is 0."""

    characters: int  # of the text, white space included
    newlines: int
    split_words: int  # runs of non-white-space
    word_count: int  # those that hold a letter or a digit: rows of dashes are not words
    word_characters: int  # of the latter, punctuation attached to them included
    alphabetic_words: int  # that hold a letter
    longest_word: int  # its characters
    stop_words: int  # how many of Gopher's eight occur
    stop_word_occurrences: int
    hashes: int
    ellipses: int
    line_count: int  # lines that are not blank, stripped
    bullet_lines: int
    ellipsis_lines: int
    punctuated_lines: int  # FineWeb's marks
    end_mark_lines: int  # NeMo Curator's
    duplicate_line_count: int
    duplicate_line_characters: int
    paragraph_count: int
    duplicate_paragraph_count: int
    duplicate_paragraph_characters: int
    boilerplate_paragraphs: int
    non_alphanumeric_characters: int
    digit_characters: int
    url_characters: int
    white_space_characters: int
    bracket_characters: int

    @abstractmethod
    def short_lines(self, length: int) -> int:
        """Lines of up to `length` characters."""

    @abstractmethod
    def top_ngram_characters(self, n: int) -> int: ...

    @abstractmethod
    def duplicate_ngram_characters(self, n: int) -> int: ...

    # Of words

    @property
    def mean_word_length(self) -> float:
        """Characters a word. (dolma: the median.)"""
        return _ratio(self.word_characters, self.word_count)

    @property
    def alphabetic_word_fraction(self) -> float:
        return _ratio(self.alphabetic_words, self.split_words)

    @property
    def symbol_word_ratio(self) -> float:
        """Of hashes or of ellipses, whichever is more."""
        return _ratio(max(self.hashes, self.ellipses), self.split_words)

    @property
    def newline_word_ratio(self) -> float:
        return _ratio(self.newlines, self.split_words)

    # Of lines

    @property
    def bullet_line_fraction(self) -> float:
        return _ratio(self.bullet_lines, self.line_count)

    @property
    def ellipsis_line_fraction(self) -> float:
        return _ratio(self.ellipsis_lines, self.line_count)

    @property
    def line_punctuation_ratio(self) -> float:
        return _ratio(self.punctuated_lines, self.line_count)

    @property
    def unended_line_fraction(self) -> float:
        return _ratio(self.line_count - self.end_mark_lines, self.line_count)

    @property
    def duplicate_line_fraction(self) -> float:
        return _ratio(self.duplicate_line_count, self.line_count)

    def short_line_ratio(self, length: int) -> float:
        return _ratio(self.short_lines(length), self.line_count)

    # Of paragraphs

    @property
    def duplicate_paragraph_fraction(self) -> float:
        return _ratio(self.duplicate_paragraph_count, self.paragraph_count)

    @property
    def boilerplate_paragraph_fraction(self) -> float:
        return _ratio(self.boilerplate_paragraphs, self.paragraph_count)

    # Of characters: all of the text's, white space included, where the name says nothing else

    def character_fraction(self, characters: float) -> float:
        return _ratio(characters, self.characters)

    @property
    def duplicate_line_character_fraction(self) -> float:
        return self.character_fraction(self.duplicate_line_characters)

    @property
    def duplicate_line_character_ratio(self) -> float:
        """FineWeb's: of the characters without line ends."""
        return self.duplicate_line_characters / max(self.characters - self.newlines, 1)

    @property
    def duplicate_paragraph_character_fraction(self) -> float:
        return self.character_fraction(self.duplicate_paragraph_characters)

    def top_ngram_character_fraction(self, n: int) -> float:
        return self.character_fraction(self.top_ngram_characters(n))

    def duplicate_ngram_character_fraction(self, n: int) -> float:
        return self.character_fraction(self.duplicate_ngram_characters(n))


COUNTS = tuple(Ratios.__annotations__)


class StoredSignals(Ratios):
    """Counts from `stored_counts`. A count that was not stored is an AttributeError or a KeyError, never a zero."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self._stored = stored
        vars(self).update({name: stored[name] for name in COUNTS if name in stored})

    def short_lines(self, length: int) -> int:
        return self._stored["short_lines"][str(length)]

    def top_ngram_characters(self, n: int) -> int:
        return self._stored["top_ngram_characters"][str(n)]

    def duplicate_ngram_characters(self, n: int) -> int:
        return self._stored["duplicate_ngram_characters"][str(n)]

    @property
    def dolma(self) -> DolmaRatios:
        return DolmaRatios(self._stored["dolma"])


class DolmaRatios:
    """Gopher's rules as the dolma toolkit reads them (its tagger gopher_v1), under the names that `Ratios` has.

    What differs: the median length of words; every white-space word counts; words holding # or … are symbols; lines are
    what new lines part, blank ones included, nothing stripped; a repeated line or n-gram counts from its first time on;
    characters are those of words; overlapping duplicate n-grams count each for itself, of all n-grams of that length.
    Bullets are * and -; … alone is an ellipsis.
    """

    def __init__(self, counts: dict[str, Any]) -> None:
        self.counts = counts
        self.word_count: int = counts["words"]
        self.stop_words: int = counts["stop_words"]
        self.stop_word_occurrences: int = counts["stop_word_occurrences"]
        self.median_word_length: float = counts["median_word_length"]

    @property
    def alphabetic_word_fraction(self) -> float:
        return _ratio(self.counts["alphabetic_words"], self.word_count)

    @property
    def symbol_word_ratio(self) -> float:
        return _ratio(self.counts["symbol_words"], self.word_count)

    @property
    def bullet_line_fraction(self) -> float:
        return _ratio(self.counts["bullet_lines"], self.counts["lines"])

    @property
    def ellipsis_line_fraction(self) -> float:
        return _ratio(self.counts["ellipsis_lines"], self.counts["lines"])

    @property
    def duplicate_line_fraction(self) -> float:
        return _ratio(self.counts["duplicate_lines"], self.counts["lines"])

    @property
    def duplicate_line_character_fraction(self) -> float:
        return _ratio(self.counts["duplicate_line_characters"], self.counts["word_characters"])

    # The toolkit has no rule on paragraphs.
    duplicate_paragraph_fraction = duplicate_paragraph_character_fraction = 0.0

    def top_ngram_character_fraction(self, n: int) -> float:
        return _ratio(self.counts["top_ngram_characters"][str(n)], self.counts["word_characters"])

    def duplicate_ngram_character_fraction(self, n: int) -> float:
        return _ratio(self.counts["duplicate_ngram_characters"][str(n)], self.counts["ngram_characters"][str(n)])


def stored_counts(signals: Ratios, names: Iterable[str], short_line_length: int) -> dict[str, Any]:
    """JSON's values of the named counts, which `StoredSignals` reads."""
    counts: dict[str, Any] = {name: getattr(signals, name) for name in names}
    counts["short_lines"] = {str(short_line_length): signals.short_lines(short_line_length)}
    return counts


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
