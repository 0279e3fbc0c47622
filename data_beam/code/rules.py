"""Code quality: comparisons, each with its name. A limit of null switches one off; at the limit a file stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_beam.code.measures import MINIFIED_MEAN_LINE
from data_beam.document import Drop
from maxllm.config.code import CodeQuality

# StarCoder2, appendix A.1: in these a long line is no sign of anything, up to 100,000 characters.
LONG_LINES = frozenset("html json markdown roff smt tex text xml".split())
MAX_LONG_LINE = 100_000
# StarCoder2: of these only the alphanumeric fraction is asked.
SYMBOLIC = frozenset({"asm", "wat", "wast", "webassembly", "motorola-68k-assembly"})
# StarCoder, section 3.2: JSON and YAML by characters. StarCoder2: these by lines.
SIZED_DATA = frozenset({"json", "yaml"})
LINED_DATA = frozenset({"json", "yaml", "text", "web-ontology-language", "graphviz-(dot)", "dot"})
WITHOUT_COMMENTS = frozenset({"html"})  # visible text is asked there instead


def text_rules(language: str | None, values: Mapping[str, Any], limits: CodeQuality) -> Drop | None:
    """Rules on what `data_beam.code.measures` counted."""
    if limits.drop_generated and values["generated"]:
        return Drop("code.generated", 1)
    minifiable = language in ("javascript", "css") and values["mean_line"] > MINIFIED_MEAN_LINE
    if limits.drop_minified and (minifiable or values["minified_name"]):
        return Drop("code.minified", values["mean_line"])
    if limits.drop_xml and values["xml"] and language != "xslt":
        return Drop("code.xml", 1)
    if language in SIZED_DATA:
        size = values["characters"]
        if _outside(limits.min_data_characters, size, limits.max_data_characters):
            return Drop("code.data_characters", size)
    if language in LINED_DATA and _outside(None, values["lines"], limits.max_data_lines):
        return Drop("code.data_lines", values["lines"])
    if _outside(None, values["encoded_run"], limits.max_encoded_run):
        return Drop("code.encoded_run", values["encoded_run"])
    if _outside(None, values["encoded"], limits.max_encoded_fraction):
        return Drop("code.encoded_fraction", values["encoded"])
    if _outside(None, values["lines"], limits.max_lines):
        return Drop("code.lines", values["lines"])
    if limits.max_line_length is not None:
        longest = MAX_LONG_LINE if language in LONG_LINES else limits.max_line_length
        if values["max_line"] > longest:
            return Drop("code.line_length", values["max_line"])
    if language not in LONG_LINES and _outside(None, values["mean_line"], limits.max_mean_line_length):
        return Drop("code.mean_line_length", values["mean_line"])
    if language not in SYMBOLIC and _outside(limits.min_alphabetic_fraction, values["alphabetic"], None):
        return Drop("code.alphabetic_fraction", values["alphabetic"])
    if _outside(limits.min_alphanumeric_fraction, values["alphanumeric"], None):
        return Drop("code.alphanumeric_fraction", values["alphanumeric"])
    return None


def tree_rules(language: str | None, values: Mapping[str, Any], limits: CodeQuality) -> Drop | None:
    """Rules on what the parser found: comments, and what a page shows."""
    if "visible" in values:
        share = round(values["visible"] / max(values["characters"], 1), 4)
        if _outside(limits.min_visible_fraction, share, None):
            return Drop("code.visible_fraction", share)
        if _outside(limits.min_visible_characters, values["visible"], None):
            return Drop("code.visible_characters", values["visible"])
    if "comments" in values and language not in WITHOUT_COMMENTS:
        if _outside(limits.min_comment_fraction, values["comments"], limits.max_comment_fraction):
            return Drop("code.comment_fraction", values["comments"])
    return None


def _outside(low: float | None, value: float, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)
