"""The counts that dolma's tagger gopher_v1 makes of a text (allenai/dolma, python/dolma/taggers/gopher.py)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from data_beam.text.marks import DOLMA_BULLETS, DOLMA_ELLIPSES, DOLMA_SYMBOLS
from data_beam.text.ratios import NGRAMS

if TYPE_CHECKING:
    from data_beam.text.signals import Signals


def dolma_counts(signals: Signals) -> dict[str, Any]:
    """JSON's values, read by `DolmaRatios`. Words and their n-grams are those of the signals, split by white space."""
    lengths = signals.word_lengths
    lines = signals.text.split("\n")
    repeated = [(line, count) for line, count in Counter(lines).items() if count > 1]
    repetition = signals.repetition
    symbol_words = sum(signals.occurrences(word) for word in signals.vocabulary if _holds(word, DOLMA_SYMBOLS))
    return {
        "words": len(lengths),
        "word_characters": int(lengths.sum()),
        "median_word_length": float(np.median(lengths)) if len(lengths) else 0.0,
        "alphabetic_words": signals.alphabetic_words,
        "symbol_words": symbol_words,
        "stop_words": signals.stop_words,
        "stop_word_occurrences": signals.stop_word_occurrences,
        "lines": len(lines),
        "bullet_lines": sum(line.startswith(DOLMA_BULLETS) for line in lines),
        "ellipsis_lines": sum(line.endswith(DOLMA_ELLIPSES) for line in lines),
        "duplicate_lines": sum(count for _, count in repeated),
        "duplicate_line_characters": sum(len(line) * count for line, count in repeated),
        "top_ngram_characters": {str(n): repetition.top_ngram_letters(n) for n in NGRAMS},
        "duplicate_ngram_characters": {str(n): repetition.repeated_ngram_letters(n) for n in NGRAMS},
        "ngram_characters": {str(n): repetition.ngram_letters(n) for n in NGRAMS},
    }


def _holds(word: str, marks: tuple[str, ...]) -> bool:
    return any(mark in word for mark in marks)
