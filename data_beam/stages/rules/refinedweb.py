"""RefinedWeb's line-wise corrections: Penedo et al. 2023 (arXiv 2306.01116), appendix G.2.

A line is removed when it is mainly upper case, only digits, a counter ("3 likes"), or a single word; three phrases of
menus are taken out of short lines; a page that so loses more than 5 % of its words is dropped. What "mainly" is, and
what counts as a counter, the paper leaves open: half of the characters, and the nouns of DCLM's reproduction
(mlfoundations/dclm, dclm_baseline_refinedweb.yaml).
"""

from __future__ import annotations

import re

from data_beam.document import Drop
from data_beam.stages.rules.lines import at_least_words
from data_beam.text.signals import Signals
from maxllm.config.rules import RefinedWebLines

COUNTER = re.compile(
    r"\W*\d[\d.,]*[kmb]?\s+(?:like|share|comment|retweet|repost|quote|bookmark|upvote|downvote|download|view|follower)s?\W*",
    re.IGNORECASE,
)
# At a line's beginning, at its end, anywhere: the paper's three examples.
PHRASES = re.compile(r"\bsign-in\b|\bread more(?:\.\.\.|…)|\bitems in cart\b", re.IGNORECASE)
EDITS = re.compile(r"^sign-in\b\s*|\s*\bread more(?:\.\.\.|…)$|\s*\bitems in cart\b", re.IGNORECASE)
_UPPER = bytes(range(ord("A"), ord("Z") + 1))


def refinedweb_lines(signals: Signals, limits: RefinedWebLines) -> list[str | None]:
    """The text's lines after the corrections, None for each one removed."""
    has_phrases = limits.max_words_of_edited_line is not None and PHRASES.search(signals.text) is not None
    result: list[str | None] = []
    for line in signals.lines:
        result.append(None)
        if limits.max_uppercase_fraction is not None:
            if uppercase(line) > limits.max_uppercase_fraction * len(line):
                continue
        if limits.drop_numeric_lines and "".join(line.split()).isdigit():
            continue
        if limits.drop_counter_lines and COUNTER.fullmatch(line):
            continue
        if limits.min_words_per_line is not None and not at_least_words(line, limits.min_words_per_line):
            continue
        if has_phrases and not at_least_words(line, limits.max_words_of_edited_line + 1):  # type: ignore[operator]
            line = EDITS.sub("", line)
            if not line:
                continue
        result[-1] = line
    return result


def uppercase(line: str) -> int:
    if line.isascii():
        return len(line) - len(line.encode().translate(None, _UPPER))
    return sum(map(str.isupper, line))


def refinedweb_page(words: int, removed: int, limits: RefinedWebLines) -> Drop | None:
    """`words` of the page as it was, and how many of them were removed."""
    fraction = removed / words if words else 0.0
    if limits.max_removed_word_fraction is not None and fraction > limits.max_removed_word_fraction:
        return Drop("refinedweb.removed_word_fraction", round(fraction, 4))
    return None
