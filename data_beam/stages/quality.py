"""Heuristic quality: the rules of Gopher, C4 and FineWeb. Each is a pure function of the text's signals and limits.

A limit of null switches its rule off; `enabled: false` a whole set. Comparisons are as published: a document exactly
at a limit stays.
"""

from __future__ import annotations

import re

from data_beam.document import Document, Drop
from data_beam.text.signals import Signals, count_sentences, signals_of
from maxllm.config.rules import C4Quality, FineWebQuality, GopherQuality, GopherRepetition, QualityConfig

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
BULLETS = ("•", "-", "*", "‣", "●", "▪", "◦")
ELLIPSES = ("...", "…")
# "A period, exclamation mark, question mark, or end quotation mark".
TERMINAL_PUNCTUATION = (".", "!", "?", '"', "”")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
# What ends a line for FineWeb's punctuation ratio: sentence ends of the large scripts.
SENTENCE_PUNCTUATION = (".", "!", "?", "…", "。", "！", "？", "．", "｡", "।", "॥", "؟", "۔", "։", "።", "។", "။")


def _outside(low: float | None, value: float, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)


def gopher_quality(signals: Signals, limits: GopherQuality) -> Drop | None:
    """Rae et al. 2021 (arXiv 2112.11446), appendix A.1.1, quality filtering."""
    if _outside(limits.min_words, signals.word_count, limits.max_words):
        return Drop("gopher.word_count", signals.word_count)
    if _outside(limits.min_mean_word_length, signals.mean_word_length, limits.max_mean_word_length):
        return Drop("gopher.mean_word_length", round(signals.mean_word_length, 4))
    if limits.max_symbol_word_ratio is not None:
        ratio = max(signals.hash_word_ratio, signals.ellipsis_word_ratio)
        if ratio > limits.max_symbol_word_ratio:
            return Drop("gopher.symbol_word_ratio", round(ratio, 4))
    if limits.max_bullet_line_fraction is not None:
        fraction = signals.lines_starting(BULLETS)
        if fraction > limits.max_bullet_line_fraction:
            return Drop("gopher.bullet_line_fraction", round(fraction, 4))
    if limits.max_ellipsis_line_fraction is not None:
        fraction = signals.lines_ending(ELLIPSES)
        if fraction > limits.max_ellipsis_line_fraction:
            return Drop("gopher.ellipsis_line_fraction", round(fraction, 4))
    if limits.min_alphabetic_word_fraction is not None:
        fraction = signals.alphabetic_word_fraction
        if fraction < limits.min_alphabetic_word_fraction:
            return Drop("gopher.alphabetic_word_fraction", round(fraction, 4))
    if limits.min_stop_words is not None:
        found = signals.distinct(STOP_WORDS)
        if found < limits.min_stop_words:
            return Drop("gopher.stop_words", found)
    return None


def gopher_repetition(signals: Signals, limits: GopherRepetition) -> Drop | None:
    """Rae et al. 2021 (arXiv 2112.11446), table A1."""
    lines, line_characters = signals.duplicate_lines
    paragraphs, paragraph_characters = signals.duplicate_paragraphs
    measured = (
        ("duplicate_line_fraction", signals.line_fraction(lines), limits.max_duplicate_line_fraction),
        (
            "duplicate_paragraph_fraction",
            paragraphs / max(len(signals.paragraphs), 1),
            limits.max_duplicate_paragraph_fraction,
        ),
        (
            "duplicate_line_character_fraction",
            signals.character_fraction(line_characters),
            limits.max_duplicate_line_character_fraction,
        ),
        (
            "duplicate_paragraph_character_fraction",
            signals.character_fraction(paragraph_characters),
            limits.max_duplicate_paragraph_character_fraction,
        ),
    )
    for name, value, limit in measured:
        if limit is not None and value > limit:
            return Drop(f"repetition.{name}", round(value, 4))
    for n, limit in sorted(limits.max_top_ngram_character_fraction.items()):
        if limit is not None and (value := signals.top_ngram_character_fraction(n)) > limit:
            return Drop(f"repetition.top_{n}gram_character_fraction", round(value, 4))
    for n, limit in sorted(limits.max_duplicate_ngram_character_fraction.items()):
        if limit is not None and (value := signals.duplicate_ngram_character_fraction(n)) > limit:
            return Drop(f"repetition.duplicate_{n}gram_character_fraction", round(value, 4))
    return None


def c4_lines(signals: Signals, limits: C4Quality) -> list[str | None]:
    """The text's lines after C4's line rules, None for each one removed.

    Raffel et al. 2020 (arXiv 1910.10683), section 2.2, and its code.
    The paper says five sentences a page and three words a line; the published code has the two numbers the other way
    round. The defaults are the paper's.
    """
    lowered = signals.text.lower()
    phrases = POLICY_PHRASES if limits.drop_policy_lines else ()
    if limits.drop_javascript_lines:
        phrases += ("javascript",)
    phrases = tuple(phrase for phrase in phrases if phrase in lowered)
    citations = limits.remove_citations and "[" in lowered
    longest = limits.max_word_length
    result: list[str | None] = []
    for line in signals.lines:
        result.append(None)
        if longest is not None and len(line) > longest and any(len(word) > longest for word in line.split()):
            continue
        if citations:
            line = CITATION.sub("", line).rstrip()
        if limits.terminal_punctuation and (not line.endswith(TERMINAL_PUNCTUATION) or line.endswith("...")):
            continue
        if limits.min_words_per_line is not None and not _at_least_words(line, limits.min_words_per_line):
            continue
        if phrases:
            low = line.lower()
            if any(phrase in low for phrase in phrases):
                continue
        result[-1] = line
    return result


def _at_least_words(line: str, count: int) -> bool:
    return len(line.split(None, count)) >= count


def without_lines(text: str, lines: list[str | None]) -> str:
    """The text with its lines that are not blank replaced by these, and without those that are None.

    Indentation stays, and one blank line where there were any: paragraphs are worth more to a model than C4's own
    output, which has neither.
    """
    left: list[str] = []
    after_blank = False
    rest = iter(lines)
    for raw in text.splitlines():
        stripped = raw.strip()
        if not stripped:
            after_blank = True
        elif (line := next(rest)) is not None:
            if after_blank and left:
                left.append("")
            after_blank = False
            left.append(raw[: len(raw) - len(raw.lstrip())] + line)
    return "\n".join(left)


def c4_page(lines: list[str | None], limits: C4Quality) -> Drop | None:
    """C4's page rules, on the lines that are left.

    The paper speaks of the page; the code looks at the lines its line rules have not removed yet, and so do we: a menu
    with a curly brace does not cost its page.
    """
    left = [line for line in lines if line]
    text = "\n".join(left)
    if limits.drop_curly_brace and "{" in text:
        return Drop("c4.curly_brace", "{")
    if limits.drop_lorem_ipsum and "lorem ipsum" in text.lower():
        return Drop("c4.lorem_ipsum", "lorem ipsum")
    if limits.min_sentences is not None:
        sentences = 0
        for line in left:
            sentences += count_sentences(line)
            if sentences >= limits.min_sentences:
                return None
        return Drop("c4.sentences", sentences)
    return None


def fineweb_quality(signals: Signals, limits: FineWebQuality) -> Drop | None:
    """Penedo et al. 2024 (arXiv 2406.17557), section 3.6, and its code.

    The paper's text gives 0.1 for the duplicated characters, its code 0.01: the default is the code's, which made the
    published data.
    """
    if not signals.lines:
        return Drop("fineweb.empty", 0)
    if limits.min_line_punctuation_ratio is not None:
        ratio = signals.lines_ending(SENTENCE_PUNCTUATION)
        if ratio < limits.min_line_punctuation_ratio:
            return Drop("fineweb.line_punctuation_ratio", round(ratio, 4))
    if limits.max_short_line_ratio is not None:
        ratio = signals.lines_up_to(limits.short_line_length)
        if ratio > limits.max_short_line_ratio:
            return Drop("fineweb.short_line_ratio", round(ratio, 4))
    if limits.max_duplicate_line_character_ratio is not None:
        characters = len(signals.text) - signals.text.count("\n")
        ratio = signals.duplicate_lines[1] / max(characters, 1)
        if ratio > limits.max_duplicate_line_character_ratio:
            return Drop("fineweb.duplicate_line_character_ratio", round(ratio, 4))
    if limits.max_newline_word_ratio is not None and signals.newline_word_ratio > limits.max_newline_word_ratio:
        return Drop("fineweb.newline_word_ratio", round(signals.newline_word_ratio, 4))
    return None


class Quality:
    """All quality rules in the order of FineWeb: Gopher, C4, and FineWeb's own on what C4 left of the text."""

    name = "quality"

    def __init__(self, config: QualityConfig) -> None:
        self.config = config

    def __call__(self, document: Document) -> Document | Drop:
        if document.metadata.get("content_type") == "code":
            return document
        config, signals = self.config, signals_of(document.text)
        if config.gopher.enabled and (drop := gopher_quality(signals, config.gopher)):
            return drop
        if config.repetition.enabled and (drop := gopher_repetition(signals, config.repetition)):
            return drop
        if config.c4.enabled:
            lines = c4_lines(signals, config.c4)
            if drop := c4_page(lines, config.c4):
                return drop
            if lines != signals.lines:
                text = without_lines(document.text, lines)
                document = document.with_text(text, c4_lines_removed=lines.count(None))
                signals = signals_of(document.text)
        if config.fineweb.enabled and (drop := fineweb_quality(signals, config.fineweb)):
            return drop
        return document
