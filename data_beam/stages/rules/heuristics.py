"""The mission's heuristics, and the rest of the set they come from.

The mission gives percentages without saying of what. They are those of NeMo Curator's filters (its Nemotron-CC
configuration has the same five), so its denominators are taken: all characters of the text, white space included.
"""

from __future__ import annotations

from data_beam.document import Drop
from data_beam.stages.rules import outside
from data_beam.text.ratios import Ratios
from maxllm.config.rules import HeuristicQuality


def heuristic_quality(signals: Ratios, limits: HeuristicQuality) -> Drop | None:
    if outside(limits.min_words, signals.word_count, limits.max_words):
        return Drop("heuristics.word_count", signals.word_count)
    length = signals.mean_word_length
    if outside(limits.min_mean_word_length, length, limits.max_mean_word_length):
        return Drop("heuristics.mean_word_length", round(length, 4))
    of_characters = (
        ("non_alphanumeric", limits.max_non_alphanumeric_fraction),
        ("digit", limits.max_digit_fraction),
        ("url", limits.max_url_fraction),
        ("white_space", limits.max_white_space_fraction),
        ("bracket", limits.max_bracket_fraction),
    )
    for name, limit in of_characters:
        if limit is not None:
            fraction = signals.character_fraction(getattr(signals, f"{name}_characters"))
            if fraction > limit:
                return Drop(f"heuristics.{name}_fraction", round(fraction, 4))
    if limits.max_boilerplate_paragraph_fraction is not None:
        fraction = signals.boilerplate_paragraph_fraction
        if fraction > limits.max_boilerplate_paragraph_fraction:
            return Drop("heuristics.boilerplate_paragraph_fraction", round(fraction, 4))
    if limits.max_unended_line_fraction is not None:
        fraction = signals.unended_line_fraction
        if fraction > limits.max_unended_line_fraction:
            return Drop("heuristics.unended_line_fraction", round(fraction, 4))
    if limits.max_word_length is not None and signals.longest_word > limits.max_word_length:
        return Drop("heuristics.word_length", signals.longest_word)
    return None
