"""Heuristic quality: Gopher, the mission's heuristics, RefinedWeb's lines, C4 and FineWeb, in that order.

The rules are in `rules/`; here is the order, what comes after a text has lost lines, and what is stored of a text so
that other thresholds can be applied without it. Two sets take lines out of the text (RefinedWeb's and C4's) and
FineWeb's rules judge what is left: so the counts FineWeb needs are stored for the text as it is and for what either
set, and both, leave of it. Thresholds and sets can then be changed at will; the settings that say which lines go are
part of the version of what is stored, and changing them means measuring again.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import xxhash

from data_beam.document import Document, Drop
from data_beam.stages.measured import store_of_text, stored_of_text
from data_beam.stages.rules.c4 import C4Left, StoredC4Left, c4_lines, c4_page_rules
from data_beam.stages.rules.fineweb import fineweb_quality
from data_beam.stages.rules.gopher import gopher_quality, gopher_repetition
from data_beam.stages.rules.heuristics import heuristic_quality
from data_beam.stages.rules.lines import without_lines
from data_beam.stages.rules.refinedweb import refinedweb_lines, refinedweb_page
from data_beam.text.ratios import COUNTS, LINE_COUNTS, NGRAMS, Ratios, StoredSignals, stored_counts
from data_beam.text.signals import signals_of
from maxllm.config.rules import QualityConfig

# Of what is stored; raised when a count changes its meaning.
VERSION = "1"
# What of the settings of sets that remove lines only compares what was counted.
THRESHOLDS = {
    "refinedweb": {"enabled", "max_removed_word_fraction"},
    "c4": {"enabled", "min_sentences", "drop_lorem_ipsum", "drop_curly_brace"},
}
# The sets that may have taken lines out of a text, in their order.
REMOVALS = (("refinedweb",), ("c4",), ("refinedweb", "c4"))


class Page:
    """A text on its way through the rules, measured as far as they ask."""

    def __init__(self, text: str, config: QualityConfig) -> None:
        self.text = text
        self.config = config
        self.signals = signals_of(text)

    def after(self, name: str) -> Left:
        """What the set of that name leaves."""
        if name == "refinedweb":
            return Left(self, refinedweb_lines(self.signals, self.config.refinedweb))
        return Left(self, c4_lines(self.signals, self.config.c4))


class Left:
    """The lines a set has left of a page; the text of them is put together when it is asked for."""

    def __init__(self, before: Page, lines: list[str | None]) -> None:
        self.before, self.lines = before, lines
        self.changed = lines != before.signals.lines

    @property
    def c4(self) -> C4Left:
        return C4Left(self.lines)

    @cached_property
    def page(self) -> Page:
        return Page(without_lines(self.before.text, self.lines), self.before.config) if self.changed else self.before

    @property
    def lines_removed(self) -> int:
        return self.lines.count(None)

    @property
    def words_removed(self) -> int:
        return self.before.signals.split_words - self.page.signals.split_words if self.changed else 0

    def stored(self) -> dict[str, Any]:
        """JSON's values, read by `StoredLeft`."""
        config = self.before.config
        return {
            "changed": self.changed,
            "lines_removed": self.lines_removed,
            "words_removed": self.words_removed,
            "c4": self.c4.stored(),
            "counts": stored_counts(self.page.signals, LINE_COUNTS, config.fineweb.short_line_length),
        }


class StoredPage:
    """A `Page` read from what was stored. Its text is only looked at to take lines out of it."""

    def __init__(self, values: dict[str, Any], text: str, config: QualityConfig, sets: tuple[str, ...] = ()) -> None:
        self.values, self.unedited, self.config, self.sets = values, text, config, sets

    @cached_property
    def signals(self) -> Ratios:
        return StoredSignals(self.values["left"]["+".join(self.sets)]["counts"] if self.sets else self.values["counts"])

    def after(self, name: str) -> StoredLeft:
        return StoredLeft(StoredPage(self.values, self.unedited, self.config, (*self.sets, name)))

    @property
    def text(self) -> str:
        page = Page(self.unedited, self.config)
        for end, name in enumerate(self.sets, 1):
            if self.values["left"]["+".join(self.sets[:end])]["changed"]:
                page = page.after(name).page
        return page.text


class StoredLeft:
    def __init__(self, page: StoredPage) -> None:
        stored = page.values["left"]["+".join(page.sets)]
        self.page = page
        self.changed: bool = stored["changed"]
        self.lines_removed: int = stored["lines_removed"]
        self.words_removed: int = stored["words_removed"]
        self.c4 = StoredC4Left(stored["c4"])


def judge(page: Page | StoredPage, config: QualityConfig) -> tuple[Page | StoredPage, dict[str, int]] | Drop:
    """The page as it is kept, and how many lines each set that changed it took out; or the first rule it breaks."""
    signals = page.signals
    if config.gopher.enabled and (drop := gopher_quality(signals, config.gopher)):
        return drop
    if config.repetition.enabled and (drop := gopher_repetition(signals, config.repetition)):
        return drop
    if config.heuristics.enabled and (drop := heuristic_quality(signals, config.heuristics)):
        return drop
    removed = {}
    if config.refinedweb.enabled:
        left = page.after("refinedweb")
        if drop := refinedweb_page(signals.split_words, left.words_removed, config.refinedweb):
            return drop
        if left.changed:
            removed["refinedweb_lines_removed"] = left.lines_removed
        page = left.page
    if config.c4.enabled:
        left = page.after("c4")
        if drop := c4_page_rules(left.c4, config.c4):
            return drop
        if left.changed:
            removed["c4_lines_removed"] = left.lines_removed
        page = left.page
    if config.fineweb.enabled and (drop := fineweb_quality(page.signals, config.fineweb)):
        return drop
    return page, removed


class Quality:
    """`measure` stores every count that any rule of any set asks for; a document that was measured is decided by them.

    One that was not is measured as far as the rules that are on ask, which is cheaper: the first drop ends it.
    """

    name = "quality"

    def __init__(self, config: QualityConfig) -> None:
        self.config = config
        settings = {name: getattr(config, name).model_dump(exclude=unused) for name, unused in THRESHOLDS.items()}
        settings["short_line_length"] = config.fineweb.short_line_length
        digest = xxhash.xxh3_64_hexdigest(json.dumps(settings, sort_keys=True).encode())
        self.version = f"{VERSION}-{digest}"

    def measure(self, document: Document) -> Document:
        if _is_code(document) or stored_of_text(document, self.name, self.version):
            return document
        return store_of_text(document, self.name, self.version, self.measured(document.text))

    def measured(self, text: str) -> dict[str, Any]:
        """JSON's values, some 3 kB of them: of the whole text, and of what each set that removes lines leaves."""
        page = Page(text, self.config)
        signals = page.signals
        counts = stored_counts(signals, COUNTS, self.config.fineweb.short_line_length)
        counts["top_ngram_characters"] = {str(n): signals.top_ngram_characters(n) for n in NGRAMS}
        counts["duplicate_ngram_characters"] = {str(n): signals.duplicate_ngram_characters(n) for n in NGRAMS}
        counts["dolma"] = signals.dolma.counts
        left: dict[str, Any] = {}
        for sets in REMOVALS:
            before = page
            for name in sets[:-1]:
                before = before.after(name).page
            left["+".join(sets)] = before.after(sets[-1]).stored()
        return {"counts": counts, "left": left}

    def decide(self, document: Document) -> Document | Drop:
        if _is_code(document):
            return document
        values = stored_of_text(document, self.name, self.version)
        text = document.text
        verdict = judge(StoredPage(values, text, self.config) if values else Page(text, self.config), self.config)
        if isinstance(verdict, Drop):
            return verdict
        page, removed = verdict
        return document.with_text(page.text, **removed) if removed else document

    __call__ = decide


def _is_code(document: Document) -> bool:
    return document.metadata.get("content_type") == "code"
