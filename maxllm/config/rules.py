"""Thresholds of the heuristic quality rules. They carry the names their papers use; null switches one off."""

from __future__ import annotations

from pydantic import Field

from maxllm.config.section import Section


class GopherQuality(Section):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1."""

    enabled: bool = True
    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_line_fraction: float | None = 0.9
    max_ellipsis_line_fraction: float | None = 0.3
    min_alphabetic_word_fraction: float | None = 0.8
    min_stop_words: int | None = Field(2, description="distinct ones of eight English words; null for other languages")


class GopherRepetition(Section):
    """Rae et al. 2021 (arXiv 2112.11446), table A1."""

    enabled: bool = True
    max_duplicate_line_fraction: float | None = 0.30
    max_duplicate_paragraph_fraction: float | None = 0.30
    max_duplicate_line_character_fraction: float | None = 0.20
    max_duplicate_paragraph_character_fraction: float | None = 0.20
    max_top_ngram_character_fraction: dict[int, float | None] = {2: 0.20, 3: 0.18, 4: 0.16}
    max_duplicate_ngram_character_fraction: dict[int, float | None] = {
        5: 0.15,
        6: 0.14,
        7: 0.13,
        8: 0.12,
        9: 0.11,
        10: 0.10,
    }


class C4Quality(Section):
    """Raffel et al. 2020 (arXiv 1910.10683), section 2.2. Line rules remove lines, page rules drop the page."""

    enabled: bool = True
    terminal_punctuation: bool = True
    remove_citations: bool = Field(True, description="[1], [edit], [citation needed]: in the code, not in the paper")
    min_words_per_line: int | None = 3
    min_sentences: int | None = 5
    max_word_length: int | None = 1000
    drop_javascript_lines: bool = True
    drop_policy_lines: bool = True
    drop_lorem_ipsum: bool = True
    drop_curly_brace: bool = True


class FineWebQuality(Section):
    """Penedo et al. 2024 (arXiv 2406.17557), section 3.6; values of the published code."""

    enabled: bool = True
    min_line_punctuation_ratio: float | None = 0.12
    max_short_line_ratio: float | None = 0.67
    short_line_length: int = 30
    max_duplicate_line_character_ratio: float | None = 0.01
    max_newline_word_ratio: float | None = 0.3


class QualityConfig(Section):
    gopher: GopherQuality = GopherQuality()
    repetition: GopherRepetition = GopherRepetition()
    c4: C4Quality = C4Quality()
    fineweb: FineWebQuality = FineWebQuality()
