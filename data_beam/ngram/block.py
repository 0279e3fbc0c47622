"""N-grams of one order as arrays: what workers send each other, and how equal n-grams are found in it.

A block has a vocabulary of its own, so that no numbering of all words, which one process would have to make, is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_beam.text.words import mix, word_hashes

_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Block:
    """`ids` int32 [ngrams, order], places in `words`; each of `columns` is [ngrams]."""

    words: list[str]
    ids: np.ndarray
    columns: tuple[np.ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def order(self) -> int:
        return self.ids.shape[1]

    def take(self, rows: np.ndarray) -> Block:
        return Block(self.words, self.ids[rows], tuple(column[rows] for column in self.columns))


def pack(block: Block) -> bytes:
    """Words hold no white space (see `prepare`)."""
    stream = io.BytesIO()
    names = np.frombuffer(" ".join(block.words).encode(), np.uint8)
    for array in (names, block.ids, *block.columns):
        np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def unpack(data: bytes) -> Block:
    stream = io.BytesIO(data)
    names, ids = np.load(stream), np.load(stream)
    columns = []
    while stream.tell() < len(data):
        columns.append(np.load(stream))
    return Block(names.tobytes().decode().split(" "), ids, tuple(columns))


def common_vocabulary(blocks: Sequence[Block]) -> tuple[list[str], list[Block]]:
    """The words of all blocks, sorted, and the blocks with their ids into it."""
    words = sorted(set().union(*(block.words for block in blocks)))
    place = {word: number for number, word in enumerate(words)}
    numbered = []
    for block in blocks:
        new = np.fromiter((place[word] for word in block.words), np.int32, len(block.words))
        numbered.append(Block(words, new[block.ids], block.columns))
    return words, numbered


def concatenate(blocks: Sequence[Block]) -> Block:
    """Of one order and the same columns; nothing is summed."""
    return joined(common_vocabulary(blocks)[1])


def joined(blocks: Sequence[Block]) -> Block:
    """`concatenate` of blocks that have one vocabulary already."""
    columns = zip(*(block.columns for block in blocks), strict=True)
    ids = np.concatenate([block.ids for block in blocks])
    return Block(blocks[0].words, ids, tuple(np.concatenate(column) for column in columns))


def groups(columns: Sequence[np.ndarray], vocabulary: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each number of columns, from one on: (a row of every group of rows equal in them, each row's group).

    Groups are numbered in the order of their words, so that nothing depends on the order of rows.
    """
    bits = max(1, (vocabulary - 1).bit_length())
    together = 63 // bits  # columns that fit into one number to sort by
    keys = []
    for begin in range(0, len(columns), together):
        key = columns[begin].astype(np.int64)
        for column in columns[begin + 1 : begin + together]:
            key = key << bits | column
        keys.append(key)
    order = np.lexsort(keys[::-1])
    group = np.empty(len(order), np.int64)
    begins = np.arange(len(order)) == 0
    for column in columns:
        values = column[order]
        begins[1:] |= values[1:] != values[:-1]
        group[order] = np.cumsum(begins) - 1
        yield order[begins], group.copy()


def shards_of(block: Block, words: slice, shards: int) -> np.ndarray:
    """int64 [ngrams]: a hash of these words of each n-gram, modulo `shards`; the same on every worker."""
    hashes = word_hashes(block.words)[block.ids[:, words]]
    total = hashes[:, 0].copy()
    for column in range(1, hashes.shape[1]):
        total *= _BASE
        total += hashes[:, column]
    return (mix(total) % np.uint64(shards)).astype(np.int64)


def home(order: int) -> slice:
    """The words that decide where an n-gram is at home: the last two, so that all but the shortest suffixes of an
    n-gram are there too, and no frequent word is too much for one worker."""
    return slice(-min(order, 2), None)


def split(block: Block, shard: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(shard, its rows packed, with only the words they need)"""
    if not len(block):
        return
    order = np.argsort(shard, kind="stable")
    names, starts = np.unique(shard[order], return_index=True)
    for name, rows in zip(names, np.split(order, starts[1:]), strict=True):
        part = block.take(rows)
        used, ids = np.unique(part.ids, return_inverse=True)
        words = [block.words[number] for number in used]
        yield int(name), pack(Block(words, ids.reshape(part.ids.shape).astype(np.int32), part.columns))


def find(keys: dict[int, np.ndarray], rows: np.ndarray, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of n-grams `rows` [rows, order] in levels of sorted keys, and which of them are there.

    An n-gram's key is (place of its suffix among those one shorter) * vocabulary + (its first word); a single word's
    place is its number.
    """
    place, found = rows[:, -1].astype(np.int64), np.ones(len(rows), bool)
    for level in range(2, rows.shape[1] + 1):
        wanted = place * vocabulary + rows[:, -level]
        place = np.minimum(np.searchsorted(keys[level], wanted), max(len(keys[level]) - 1, 0))
        found &= keys[level][place] == wanted if len(keys[level]) else False
    return place, found
