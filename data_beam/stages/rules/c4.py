"""C4's rules: Raffel et al. 2020 (arXiv 1910.10683), section 2.2, and its code.

The paper says five sentences a page and three words a line; the published code has the two numbers the other way
round. The defaults are the paper's.
"""

from __future__ import annotations

import re
from typing import Any

from data_beam.document import Drop
from data_beam.stages.rules.lines import at_least_words
from data_beam.text.marks import POLICY_PHRASES, TERMINAL_PUNCTUATION
from data_beam.text.signals import Signals, count_sentences
from maxllm.config.rules import C4Quality

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


def c4_lines(signals: Signals, limits: C4Quality) -> list[str | None]:
    """The text's lines after C4's line rules, None for each one removed."""
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
        if limits.min_words_per_line is not None and not at_least_words(line, limits.min_words_per_line):
            continue
        if phrases:
            low = line.lower()
            if any(phrase in low for phrase in phrases):
                continue
        result[-1] = line
    return result


class C4Left:
    """What the page rules ask of the lines that are left."""

    def __init__(self, lines: list[str | None]) -> None:
        self.lines = [line for line in lines if line]
        self._text = "\n".join(self.lines)

    @property
    def curly_brace(self) -> bool:
        return "{" in self._text

    @property
    def lorem_ipsum(self) -> bool:
        return "lorem ipsum" in self._text.lower()

    def sentences(self, enough: int | None = None) -> int:
        """Counted until there are enough."""
        sentences = 0
        for line in self.lines:
            sentences += count_sentences(line)
            if enough is not None and sentences >= enough:
                break
        return sentences

    def stored(self) -> dict[str, Any]:
        """JSON's values, read by `StoredC4Left`."""
        return {"curly_brace": self.curly_brace, "lorem_ipsum": self.lorem_ipsum, "sentences": self.sentences()}


class StoredC4Left:
    def __init__(self, stored: dict[str, Any]) -> None:
        self.curly_brace: bool = stored["curly_brace"]
        self.lorem_ipsum: bool = stored["lorem_ipsum"]
        self._sentences: int = stored["sentences"]

    def sentences(self, enough: int | None = None) -> int:
        return self._sentences


def c4_page(lines: list[str | None], limits: C4Quality) -> Drop | None:
    """The page rules on what `c4_lines` left."""
    return c4_page_rules(C4Left(lines), limits)


def c4_page_rules(left: C4Left | StoredC4Left, limits: C4Quality) -> Drop | None:
    """C4's page rules, on the lines that are left.

    The paper speaks of the page; the code looks at the lines its line rules have not removed yet, and so do we: a menu
    with a curly brace does not cost its page.
    """
    if limits.drop_curly_brace and left.curly_brace:
        return Drop("c4.curly_brace", "{")
    if limits.drop_lorem_ipsum and left.lorem_ipsum:
        return Drop("c4.lorem_ipsum", "lorem ipsum")
    if limits.min_sentences is not None:
        sentences = left.sentences(limits.min_sentences)
        if sentences < limits.min_sentences:
            return Drop("c4.sentences", sentences)
    return None
