"""Gopher's rules: Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1.

The paper gives thresholds and no code. The default reading is datatrove's; `reading: dolma` is that of dolma's tagger
gopher_v1, with which Dolma was made.
"""

from __future__ import annotations

from data_beam.document import Drop
from data_beam.stages.rules import outside
from data_beam.text.ratios import Ratios
from maxllm.config.rules import GopherQuality, GopherRepetition


def gopher_quality(signals: Ratios, limits: GopherQuality) -> Drop | None:
    """The rules on words, symbols and lines."""
    measured = signals.dolma if limits.reading == "dolma" else signals
    if outside(limits.min_words, measured.word_count, limits.max_words):
        return Drop("gopher.word_count", measured.word_count)
    kind = "median" if limits.reading == "dolma" else "mean"
    length = getattr(measured, f"{kind}_word_length")
    if outside(limits.min_mean_word_length, length, limits.max_mean_word_length):
        return Drop(f"gopher.{kind}_word_length", round(length, 4))
    if limits.max_symbol_word_ratio is not None:
        ratio = measured.symbol_word_ratio
        if ratio > limits.max_symbol_word_ratio:
            return Drop("gopher.symbol_word_ratio", round(ratio, 4))
    if limits.max_bullet_line_fraction is not None:
        fraction = measured.bullet_line_fraction
        if fraction > limits.max_bullet_line_fraction:
            return Drop("gopher.bullet_line_fraction", round(fraction, 4))
    if limits.max_ellipsis_line_fraction is not None:
        fraction = measured.ellipsis_line_fraction
        if fraction > limits.max_ellipsis_line_fraction:
            return Drop("gopher.ellipsis_line_fraction", round(fraction, 4))
    if limits.min_alphabetic_word_fraction is not None:
        fraction = measured.alphabetic_word_fraction
        if fraction < limits.min_alphabetic_word_fraction:
            return Drop("gopher.alphabetic_word_fraction", round(fraction, 4))
    if limits.min_stop_words is not None:
        found = measured.stop_words if limits.count_stop_words == "distinct" else measured.stop_word_occurrences
        if found < limits.min_stop_words:
            return Drop("gopher.stop_words", found)
    return None


def gopher_repetition(signals: Ratios, limits: GopherRepetition) -> Drop | None:
    """Table A1."""
    measured = signals.dolma if limits.reading == "dolma" else signals
    for name in (
        "duplicate_line_fraction",
        "duplicate_paragraph_fraction",
        "duplicate_line_character_fraction",
        "duplicate_paragraph_character_fraction",
    ):
        limit = getattr(limits, f"max_{name}")
        if limit is not None and (value := getattr(measured, name)) > limit:
            return Drop(f"repetition.{name}", round(value, 4))
    for n, limit in sorted(limits.max_top_ngram_character_fraction.items()):
        if limit is not None and (value := measured.top_ngram_character_fraction(n)) > limit:
            return Drop(f"repetition.top_{n}gram_character_fraction", round(value, 4))
    for n, limit in sorted(limits.max_duplicate_ngram_character_fraction.items()):
        if limit is not None and (value := measured.duplicate_ngram_character_fraction(n)) > limit:
            return Drop(f"repetition.duplicate_{n}gram_character_fraction", round(value, 4))
    return None
