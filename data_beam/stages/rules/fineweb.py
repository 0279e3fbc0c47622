"""FineWeb's own rules: Penedo et al. 2024 (arXiv 2406.17557), section 3.6, and its code.

The paper's text gives 0.1 for the duplicated characters, its code 0.01: the default is the code's, which made the
published data.
"""

from __future__ import annotations

from data_beam.document import Drop
from data_beam.text.ratios import Ratios
from maxllm.config.rules import FineWebQuality


def fineweb_quality(signals: Ratios, limits: FineWebQuality) -> Drop | None:
    if not signals.line_count:
        return Drop("fineweb.empty", 0)
    if limits.min_line_punctuation_ratio is not None:
        ratio = signals.line_punctuation_ratio
        if ratio < limits.min_line_punctuation_ratio:
            return Drop("fineweb.line_punctuation_ratio", round(ratio, 4))
    if limits.max_short_line_ratio is not None:
        ratio = signals.short_line_ratio(limits.short_line_length)
        if ratio > limits.max_short_line_ratio:
            return Drop("fineweb.short_line_ratio", round(ratio, 4))
    if limits.max_duplicate_line_character_ratio is not None:
        ratio = signals.duplicate_line_character_ratio
        if ratio > limits.max_duplicate_line_character_ratio:
            return Drop("fineweb.duplicate_line_character_ratio", round(ratio, 4))
    if limits.max_newline_word_ratio is not None:
        ratio = signals.newline_word_ratio
        if ratio > limits.max_newline_word_ratio:
            return Drop("fineweb.newline_word_ratio", round(ratio, 4))
    return None
