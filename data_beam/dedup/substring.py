"""Passages that an older text has too, cut from all but the first: exact substrings of `min_tokens` pieces or more.

Lee et al. 2022, "Deduplicating training data makes language models better" (arXiv 2107.06499), 4.1, ExactSubstr. The
reference program holds a suffix array of all text in one machine. Here every n-gram, n = `min_tokens`, is grouped
by its anchor (winnow.py); a run of n or more pieces repeats exactly where all its n-grams do. An anchor met once ends
there: nearly all are. Shuffled are hashes, offsets, ages and ids, about 15 bytes a piece, never text.

An n-gram is known by its 64-bit hash among those with the same 64-bit anchor hash: two different ones are taken for one
with a chance of 2^-64 for each pair of different n-grams that share an anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import apache_beam as beam
import numpy as np

from data_beam.dedup.nodes import id_of, node_of
from data_beam.dedup.pieces import pieces_of
from data_beam.dedup.winnow import blocks, unpack
from data_beam.document import Document, Edit
from maxllm.config.dedup_text import SubstringDedupConfig

REASON = "substring_dedup.repeated"
# Blocks of one anchor that are settled in memory (some 50 MB); more of them go through a second grouping, by n-gram.
IN_MEMORY = 1 << 16

Block = tuple[str, bytes]  # node, packed Grams
Gram = tuple[str, int, int]  # node, start, end
Spans = tuple[str, bytes]  # id, uint32 [m, 2] of starts and ends


class _Blocks(beam.DoFn):
    LOCAL = "local"

    def __init__(self, min_tokens: int) -> None:
        self.min_tokens = min_tokens

    def process(self, document: Document) -> Iterator[tuple[bytes, Block] | beam.pvalue.TaggedOutput]:
        found, repeated = blocks(pieces_of(document.text), self.min_tokens)
        if len(repeated):
            yield beam.pvalue.TaggedOutput(self.LOCAL, (document.id, _to_bytes(repeated)))
        node = node_of(document)
        for anchor, packed in found:
            yield anchor, (node, packed)


class _Settle(beam.DoFn):
    """From all blocks of one anchor: the spans that repeat; or, of too many blocks, the n-grams one by one."""

    GRAM = "gram"

    def __init__(self, in_memory: int) -> None:
        self.in_memory = in_memory

    def process(self, group: tuple[bytes, Iterable[Block]]) -> Iterator[Spans | beam.pvalue.TaggedOutput]:
        anchor, members = group
        rest = iter(members)
        held = list(islice(rest, self.in_memory))
        more = list(islice(rest, 1))
        if not more:
            yield from settle(held)
            return
        for node, packed in chain(held, more, rest):
            grams = unpack(packed)
            rows = zip(grams.hashes.tolist(), grams.starts.tolist(), grams.ends.tolist(), strict=True)
            for name, start, end in rows:
                key = anchor + name.to_bytes(8, "little")
                yield beam.pvalue.TaggedOutput(self.GRAM, (key, (node, start, end)))


def settle(members: list[Block]) -> Iterator[Spans]:
    """Spans of n-grams whose first occurrence is in an older text."""
    if len(members) < 2:
        return
    ordered = [(node, unpack(packed)) for node, packed in members]
    ordered.sort(key=lambda block: (block[0], block[1].starts[0]))
    names = np.concatenate([grams.hashes for _, grams in ordered])
    _, first = np.unique(names, return_index=True)
    repeated = np.ones(len(names), bool)
    repeated[first] = False
    low = 0
    for node, grams in ordered:
        here = repeated[low : low + len(grams.hashes)]
        low += len(here)
        if here.any():
            yield id_of(node), _to_bytes(united(np.stack([grams.starts[here], grams.ends[here]], axis=1)))


def _all_but_the_first(group: tuple[bytes, Iterable[Gram]]) -> Iterator[Spans]:
    """Walks the group twice without holding it: a passage may be in every text there is."""
    _, members = group
    first = min(members)
    for member in members:
        if member != first:
            yield id_of(member[0]), _to_bytes(np.array([member[1:]]))


def united(spans: np.ndarray) -> np.ndarray:
    """The union of spans that may overlap and touch, ascending: int64 [m, 2] -> [runs, 2]. Bounds are Pieces'."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    reach = np.maximum.accumulate(spans[:, 1])
    fresh = np.append(True, spans[1:, 0] > reach[:-1])
    return np.stack([spans[fresh, 0], reach[np.append(fresh[1:], True)]], axis=1)


def characters(spans: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Bounds -> offsets in characters. White space behind a passage goes with it, unless none would be left there."""
    starts, ends = spans >> 1, spans & 1
    keep = (ends[:, 0] == 0) & (ends[:, 1] == 1)
    return tuple(zip(starts[:, 0].tolist(), (starts[:, 1] - keep).tolist(), strict=True))


def _edit(group: tuple[str, Iterable[bytes]], min_words: int = 0) -> tuple[str, Edit]:
    id, packed = group
    spans = np.concatenate([np.frombuffer(each, "<u4").reshape(-1, 2) for each in packed]).astype(np.int64)
    return id, Edit(REASON, remove=characters(united(spans)), min_words=min_words)


def _to_bytes(spans: np.ndarray) -> bytes:
    return spans.astype("<u4").tobytes()


class RepeatedSubstrings(beam.PTransform):
    """Documents -> (id, Edit) of those with a passage that an older one, or they themselves before, have too."""

    def __init__(self, config: SubstringDedupConfig, in_memory: int = IN_MEMORY) -> None:
        super().__init__()
        self.config, self.in_memory = config, in_memory

    def expand(self, documents: beam.PCollection[Document]) -> beam.PCollection[tuple[str, Edit]]:
        found = documents | "blocks" >> beam.ParDo(_Blocks(self.config.min_tokens)).with_outputs(
            _Blocks.LOCAL, main="blocks"
        )
        settled = (
            found.blocks
            | "typed blocks" >> beam.Map(tuple).with_output_types(tuple[bytes, Block])
            | "same anchor" >> beam.GroupByKey()
            | "settle" >> beam.ParDo(_Settle(self.in_memory)).with_outputs(_Settle.GRAM, main="spans")
        )
        of_hot_anchors = (
            settled[_Settle.GRAM]
            | "typed grams" >> beam.Map(tuple).with_output_types(tuple[bytes, Gram])
            | "same passage" >> beam.GroupByKey()
            | "newer ones" >> beam.FlatMap(_all_but_the_first).with_output_types(Spans)
        )
        spans = [found[_Blocks.LOCAL], settled.spans]
        return (
            (*[part | f"typed {i}" >> beam.Map(tuple).with_output_types(Spans) for i, part in enumerate(spans)],)
            + (of_hot_anchors,)
            | "all spans" >> beam.Flatten()
            | "by document" >> beam.GroupByKey()
            | "edits" >> beam.Map(_edit, self.config.min_words_left)
        )
