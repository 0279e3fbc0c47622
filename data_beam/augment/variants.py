"""The same text in another order or another form."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable

from data_beam.augment.draw import Draw

_LINE = 72
# A sentence ends at a mark, closing quotes and brackets included, before white space; in Chinese and Japanese without.
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(\s+)|(?<=[。！？])[」』）]*()(?=[^」』）\s])")
_ASCII = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "–": "-", "—": "--", "…": "..."}
)
_PUNCTUATION = re.compile(r"[^\w\s]")
_MARKDOWN = (
    (re.compile(r"^```.*\n?", re.M), ""),
    (re.compile(r"^ {0,3}#{1,6} +", re.M), ""),
    (re.compile(r"^ {0,3}> ?", re.M), ""),
    (re.compile(r"^(\s*)[-*+] +", re.M), r"\1"),
    (re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)"), r"\1"),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"`([^`\n]+)`"), r"\1"),
)


def sentences_of(paragraph: str) -> tuple[list[str], list[str]]:
    """The sentences of a paragraph and the white space between them, one fewer. All together are the paragraph."""
    sentences, between, begin = [], [], 0
    for match in _SENTENCE_END.finditer(paragraph):
        group = 1 if match[1] is not None else 2
        sentences.append(paragraph[begin : match.start(group)])
        between.append(match[group])
        begin = match.end(group)
    return [*sentences, paragraph[begin:]], between


def shuffled_sentences(text: str, draw: Draw) -> tuple[str, int]:
    """The sentences of each paragraph (blank lines part them) in another order; white space stays where it is."""
    changed = 0
    parts = re.split(r"(\n[^\S\n]*\n\s*)", text)
    for number in range(0, len(parts), 2):
        body = parts[number].strip()
        begin = parts[number].find(body) if body else 0
        sentences, between = sentences_of(body)
        order = list(range(len(sentences)))
        draw.shuffle(order)
        changed += sum(place != sentence for place, sentence in enumerate(order))
        mixed = "".join(sentences[s] + b for s, b in zip(order, [*between, ""], strict=True))
        parts[number] = parts[number][:begin] + mixed + parts[number][begin + len(body) :]
    return "".join(parts), changed


def _wrapped(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(textwrap.fill(p, _LINE, break_long_words=False, break_on_hyphens=False) for p in paragraphs)


def _plain(text: str) -> str:
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    return text


def _curly(text: str) -> str:
    text = re.sub(r'(?<![^\s(\[{“‘—-])"', "“", text).replace('"', "”")
    return re.sub(r"(?<![^\s(\[{“‘—-])'(?=\w)", "‘", text).replace("'", "’")


def _no_accents(text: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return unicodedata.normalize("NFC", bare)


VARIANTS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "one_line": lambda text: " ".join(text.split()),
    "wrapped": _wrapped,
    "no_punctuation": lambda text: _PUNCTUATION.sub("", text),
    "ascii_punctuation": lambda text: text.translate(_ASCII),
    "curly_quotes": _curly,
    "no_accents": _no_accents,
    "plain": _plain,
}
