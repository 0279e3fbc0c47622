"""Lines or paragraphs that were seen before: the oldest document keeps them, all others lose them.

CCNet compares paragraphs (which are lines there) by a hash of their normalised form (Wenzek et al. 2020, section 3.2);
C4 did so with lines as they are. Here the copy that stays is chosen: the first one in the oldest document. A line of
every page, "Share on Twitter", is no trouble: a bundle settles among its own documents, since no copy but its oldest
can be the oldest of all, and shuffles that one. Only hashes, names and places travel.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import xxhash
from apache_beam.pvalue import TaggedOutput

from data_beam.dedup.groups import HELD, Pair, windowed
from data_beam.dedup.nodes import Node, node, unpacked_id
from data_beam.document import Document, Drop, Edit
from maxllm.config.dedup import LineDedupConfig

_DIGIT = re.compile(r"\d")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_PARAGRAPH = re.compile(r"\S.*?(?:\n[^\S\n]*\n\s*|\Z)", re.DOTALL)
_LENGTH = struct.Struct(">Q")  # characters of a document
_SPAN = struct.Struct(">QQ")  # characters [start, end)
_PLACE = _LENGTH.size + _SPAN.size

Span = tuple[int, int]


def pieces(text: str, unit: str) -> Iterator[Span]:
    """Spans of lines or paragraphs with the line ends and blank lines after them; blank lines are none."""
    if unit == "paragraph":
        yield from (match.span() for match in _PARAGRAPH.finditer(text))
        return
    end = 0
    for line in text.splitlines(keepends=True):
        start, end = end, end + len(line)
        if not line.isspace():
            yield start, end


def normalised(piece: str) -> str:
    """Lower case, no accents, every digit a 0, no punctuation, white space made single."""
    piece = piece.lower()
    if not piece.isascii():
        decomposed = unicodedata.normalize("NFD", piece)
        piece = "".join([character for character in decomposed if not unicodedata.combining(character)])
    return " ".join(_PUNCTUATION.sub("", _DIGIT.sub("0", piece)).split())


def key_of(piece: str, config: LineDedupConfig) -> bytes | None:
    """What a piece is compared by; None for one that stays whatever happens."""
    stripped = piece.strip()
    if len(stripped) < config.min_characters and len(stripped.split()) < config.min_words:
        return None
    compared = normalised(stripped) if config.normalise else stripped
    return xxhash.xxh3_128_digest(compared.encode("utf-8", "surrogatepass")) if compared else None


class _Settle(beam.DoFn):
    """Documents -> pieces that an older document of the bundle has: (document's node, its length and their spans).
    Of each piece the oldest of the bundle goes on: (hash, length, span and node)."""

    def __init__(self, config: LineDedupConfig) -> None:
        self.config = config

    def start_bundle(self) -> None:
        self.held: dict[bytes, tuple[Node, bytes]] = {}

    def process(self, document: Document) -> Iterator[Any]:
        text, name = document.text, node(document)
        length = _LENGTH.pack(len(text))
        lost = []
        for start, end in pieces(text, self.config.unit):
            key = key_of(text[start:end], self.config)
            if key is None:
                continue
            span = _SPAN.pack(start, end)
            held = self.held.get(key)
            if held is None:
                self.held[key] = (name, length + span)
            elif name < held[0]:
                self.held[key] = (name, length + span)
                yield held
            else:
                lost.append(span)
        if lost:
            yield name, length + b"".join(lost)
        if len(self.held) >= HELD:
            yield from self._oldest()

    def finish_bundle(self) -> Iterator[Any]:
        for item in self._oldest():
            yield windowed(item)

    def _oldest(self) -> Iterator[TaggedOutput]:
        for key, (name, place) in self.held.items():
            yield TaggedOutput("oldest", (key, place + name))
        self.held = {}


def _elect(group: tuple[bytes, Iterable[bytes]]) -> Iterator[Pair]:
    """A piece's documents, one a bundle -> all but the oldest, with the piece's span in each."""
    candidates = group[1]
    oldest = min(candidate[_PLACE:] for candidate in candidates)
    kept = False
    for candidate in candidates:
        name = candidate[_PLACE:]
        if name == oldest and not kept:
            kept = True
        else:
            yield name, candidate[:_PLACE]


class _Verdict(beam.DoFn):
    def __init__(self, config: LineDedupConfig) -> None:
        self.limit = config.max_fraction_removed

    def process(self, group: tuple[Node, Iterable[bytes]]) -> Iterator[tuple[str, Drop | Edit]]:
        name, values = group
        spans: list[Span] = []
        for value in values:
            (length,) = _LENGTH.unpack_from(value)
            spans += _SPAN.iter_unpack(value[_LENGTH.size :])
        spans.sort()
        fraction = sum(end - start for start, end in spans) / length
        if self.limit is not None and fraction > self.limit:
            yield unpacked_id(name), Drop("line_dedup.mostly_duplicate", round(fraction, 4))
        else:
            yield unpacked_id(name), Edit("line_dedup.seen_before", tuple(_joined(spans)))


def _joined(spans: list[Span]) -> Iterator[Span]:
    """Sorted spans that do not overlap, those that touch made one."""
    begun, reached = spans[0]
    for start, end in spans[1:]:
        if start > reached:
            yield begun, reached
            begun = start
        reached = end
    yield begun, reached


class LineDedup(beam.PTransform):
    """Documents -> (id, Edit that removes pieces an older document has), or a Drop of those with little else."""

    def __init__(self, config: LineDedupConfig) -> None:
        super().__init__()
        self.config = config

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Drop | Edit]]:
        settle = beam.ParDo(_Settle(self.config)).with_output_types(Pair, oldest=Pair)
        settled = documents | "settle in bundle" >> settle.with_outputs("oldest", main="lost")
        elsewhere = (
            settled.oldest
            | "same piece" >> beam.GroupByKey()
            | "oldest stays" >> beam.FlatMap(_elect).with_output_types(Pair)
        )
        return (
            (settled.lost, elsewhere)
            | "lost" >> beam.Flatten()
            | "by document" >> beam.GroupByKey()
            | "verdicts" >> beam.ParDo(_Verdict(self.config))
        )
