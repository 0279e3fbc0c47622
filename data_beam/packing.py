"""The plan of which pieces of which documents share a sequence, made once, when tokens are written.

A document of n tokens gives n - 1 pairs (token, the token that follows). Pairs are what a sequence holds, so that a
document may be cut anywhere and no target is lost. It is cut into full rows of `length` pairs; what is left over, and
documents shorter than a row, are packed whole by best-fit decreasing: into the fullest row that still takes them. So
only documents longer than a row are ever cut (Ding et al. 2024, "Fewer Truncations Improve Language Modeling").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PIECE = np.dtype([("record", "<u4"), ("start", "<u4"), ("length", "<u4")])


class Plan(NamedTuple):
    """Row r holds `pieces[rows[r]:rows[r + 1]]`; a piece is `length` pairs of a record from `start`."""

    pieces: np.ndarray  # PIECE [pieces]
    rows: np.ndarray  # uint64 [rows + 1]


def plan(token_counts: np.ndarray, length: int) -> Plan:
    """token_counts: tokens of each record of a shard, [records]. length: pairs of a row."""
    pairs = np.maximum(token_counts.astype(np.int64) - 1, 0)
    full, left = np.divmod(pairs, length)
    rest = np.flatnonzero(left)
    rest = rest[np.argsort(-left[rest], kind="stable")]
    row_of_rest = best_fit(left[rest], length)

    record = np.concatenate([np.repeat(np.arange(len(pairs)), full), rest])
    first_of_record = np.repeat(np.cumsum(full) - full, full)
    start = np.concatenate([(np.arange(len(first_of_record)) - first_of_record) * length, full[rest] * length])
    sizes = np.concatenate([np.full(len(first_of_record), length), left[rest]])
    row = np.concatenate([np.arange(len(first_of_record)), len(first_of_record) + row_of_rest])

    order = np.argsort(row, kind="stable")
    pieces = np.empty(len(order), PIECE)
    pieces["record"], pieces["start"], pieces["length"] = record[order], start[order], sizes[order]
    rows = np.concatenate([[0], np.cumsum(np.bincount(row))]) if len(row) else np.zeros(1)
    return Plan(pieces, rows.astype("<u8"))


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The bin of each item, [items]; sizes must fall, each 1 to `capacity`.

    All items of one size are placed together: a bin that is the fullest to take one stays the fullest until it takes
    no more, so each bin is filled as far as it goes. Work grows with the number of sizes, not of items.
    """
    bins = np.empty(len(sizes), np.int64)
    open_bins: dict[int, np.ndarray] = {}  # room left -> bins
    is_open = np.zeros(capacity + 1, bool)
    count = place = 0

    def keep(room: int, which: np.ndarray) -> None:
        if room and len(which):
            open_bins[room] = np.concatenate([open_bins[room], which]) if is_open[room] else which
            is_open[room] = True

    while place < len(sizes):
        size = int(sizes[place])
        end = int(np.searchsorted(-sizes, -size, side="right"))
        while place < end:
            room = size + int(np.argmax(is_open[size:]))
            if is_open[room]:
                found = open_bins.pop(room)
                is_open[room] = False
            else:
                room = capacity
                found = np.arange(count, count + _ceil(end - place, capacity // size))
                count += len(found)
            each = room // size
            used = min(len(found), _ceil(end - place, each))
            taken = min(end - place, used * each)
            bins[place : place + taken] = np.repeat(found[:used], each)[:taken]
            place += taken
            keep(room, found[used:])
            last = taken - (used - 1) * each  # items in the last bin used
            keep(room - each * size, found[: used - 1])
            keep(room - last * size, found[used - 1 : used])
    return bins


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
