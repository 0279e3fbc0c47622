"""Thresholds of the heuristic quality rules. They carry the names their papers use; null switches one off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from maxllm.config.section import Section

Ngram = Annotated[int, Field(ge=2, le=10)]
READING = "whose definitions: as datatrove counts, or as dolma's tagger gopher_v1 does (docs/curation/rules.md)"


class GopherQuality(Section):
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1."""

    enabled: bool = True
    reading: Literal["gopher", "dolma"] = Field("gopher", description=READING)
    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = Field(3, description="of dolma's reading: the median")
    max_mean_word_length: float | None = Field(10, description="of dolma's reading: the median")
    max_symbol_word_ratio: float | None = 0.1
    max_bullet_line_fraction: float | None = 0.9
    max_ellipsis_line_fraction: float | None = 0.3
    min_alphabetic_word_fraction: float | None = 0.8
    min_stop_words: int | None = Field(2, description="of eight English words; null for other languages")
    count_stop_words: Literal["distinct", "occurrences"] = "distinct"


class GopherRepetition(Section):
    """Rae et al. 2021 (arXiv 2112.11446), table A1. n-grams of 2 to 10 words."""

    enabled: bool = True
    reading: Literal["gopher", "dolma"] = Field("gopher", description=READING)
    max_duplicate_line_fraction: float | None = 0.30
    max_duplicate_paragraph_fraction: float | None = 0.30
    max_duplicate_line_character_fraction: float | None = 0.20
    max_duplicate_paragraph_character_fraction: float | None = 0.20
    max_top_ngram_character_fraction: dict[Ngram, float | None] = {2: 0.20, 3: 0.18, 4: 0.16}
    max_duplicate_ngram_character_fraction: dict[Ngram, float | None] = {
        5: 0.15,
        6: 0.14,
        7: 0.13,
        8: 0.12,
        9: 0.11,
        10: 0.10,
    }


class HeuristicQuality(Section):
    """The mission's heuristics, the first seven, which are NeMo Curator's, as are the others (null: off)."""

    enabled: bool = False
    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_non_alphanumeric_fraction: float | None = Field(0.25, description="of all characters; new line ? ! , . are not")
    max_digit_fraction: float | None = Field(0.15, description="of all characters")
    max_url_fraction: float | None = Field(0.20, description="of all characters")
    max_white_space_fraction: float | None = Field(None, description="of all characters")
    max_bracket_fraction: float | None = Field(None, description="of all characters")
    max_boilerplate_paragraph_fraction: float | None = Field(None, description="with phrases on cookies and terms")
    max_unended_line_fraction: float | None = Field(None, description="of lines, those that end in no end mark")
    max_word_length: int | None = Field(None, description="of the longest word, in characters")


class RefinedWebLines(Section):
    """Penedo et al. 2023 (arXiv 2306.01116), appendix G.2: removes lines, and the page that loses too many words."""

    enabled: bool = False
    max_uppercase_fraction: float | None = Field(0.5, description="of a line's characters; the paper says mainly")
    drop_numeric_lines: bool = True
    drop_counter_lines: bool = Field(True, description="such as 3 likes")
    min_words_per_line: int | None = 2
    max_words_of_edited_line: int | None = Field(10, description="sign-in, read more... and items in cart go from it")
    max_removed_word_fraction: float | None = 0.05


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
    """In the order they are applied."""

    gopher: GopherQuality = GopherQuality()
    repetition: GopherRepetition = GopherRepetition()
    heuristics: HeuristicQuality = HeuristicQuality()
    refinedweb: RefinedWebLines = RefinedWebLines()
    c4: C4Quality = C4Quality()
    fineweb: FineWebQuality = FineWebQuality()
