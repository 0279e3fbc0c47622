"""Rows of a packed source, addressed by an integer, and the batch they become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_beam.token_format import unpack_record
from maxllm.batch import Batch
from maxllm.data.dataset import Dataset, Packing, Shard, read_tokens


class Row(NamedTuple):
    """Where a row's tokens lie."""

    shard: int
    pieces: np.ndarray  # [pieces] of (record, start, length)


class PackedSource:
    """All rows of a source (or of every source) in one split of a data set, as one sequence."""

    def __init__(self, dataset: Dataset, entries: Sequence[dict[str, Any]], sequence_length: int) -> None:
        rows = [entry["packings"][str(sequence_length)]["rows"] for entry in entries]
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._length = sequence_length
        self._shards: list[Shard] = [dataset.open(entry) for entry in entries]
        self._packings: list[Packing] = [dataset.packing(entry, sequence_length) for entry in entries]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, index: int, part: int = 0, parts: int = 1) -> Row:
        """Row `index`; or, when rows are cut into `parts` alike, its part number `part`."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        packing = self._packings[shard]
        place = index - (int(self._ends[shard - 1]) if shard else 0)
        pieces = packing.pieces[int(packing.rows[place]) : int(packing.rows[place + 1])]
        if parts > 1:
            length = self._length // parts
            pieces = cut_pieces(pieces, part * length, (part + 1) * length)
        return Row(shard, pieces)

    def fill(
        self, batch: Batch, places: Sequence[int], indices: Sequence[int], cut: Sequence[int] | None = None
    ) -> None:
        """Writes row `indices[i]` of this source into row `places[i]` of the batch.

        Where the batch is shorter than the packing, the part `cut[i]` of that row.
        """
        parts = self._length // batch.tokens.shape[1]
        rows = [self.row(index, part, parts) for index, part in zip(indices, cut or [0] * len(indices), strict=True)]
        for shard in {row.shard for row in rows}:
            mine = [(place, row.pieces) for place, row in zip(places, rows, strict=True) if row.shard == shard]
            records = np.concatenate([pieces["record"] for _, pieces in mine]).tolist()
            read = iter(read_tokens(self._shards[shard], records) if records else ())
            for place, pieces in mine:
                fill_row(batch, place, [(next(read), int(piece["start"]), int(piece["length"])) for piece in pieces])

    def document_ids(self, index: int, part: int = 0, parts: int = 1) -> list[str]:
        row = self.row(index, part, parts)
        if not len(row.pieces):
            return []
        return [unpack_record(data).document_id for data in self._shards[row.shard].read(row.pieces["record"].tolist())]


def cut_pieces(pieces: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The pieces of positions `begin` to `end` of a row; one that lies across a cut is shortened. May be empty."""
    ends = np.cumsum(pieces["length"], dtype=np.int64)
    starts = ends - pieces["length"]
    inside = (starts < end) & (ends > begin)
    cut, starts, ends = pieces[inside].copy(), starts[inside], ends[inside]
    cut["start"] += np.maximum(begin - starts, 0).astype(cut["start"].dtype)
    cut["length"] = np.minimum(ends, end) - np.maximum(starts, begin)
    return cut


def fill_row(batch: Batch, place: int, pieces: Sequence[tuple[np.ndarray, int, int]]) -> None:
    """Lays pieces (tokens of a record, start, length) side by side. Every one knows its last target too."""
    begin = 0
    for segment, (tokens, start, length) in enumerate(pieces, 1):
        end = begin + length
        batch.tokens[place, begin:end] = tokens[start : start + length]
        batch.targets[place, begin:end] = tokens[start + 1 : start + length + 1]
        batch.segment_ids[place, begin:end] = segment
        batch.positions[place, begin:end] = np.arange(length)
        batch.weights[place, begin:end] = 1
        begin = end
