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
        self._shards: list[Shard] = [dataset.open(entry) for entry in entries]
        self._packings: list[Packing] = [dataset.packing(entry, sequence_length) for entry in entries]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, index: int) -> Row:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        packing = self._packings[shard]
        place = index - (int(self._ends[shard - 1]) if shard else 0)
        return Row(shard, packing.pieces[int(packing.rows[place]) : int(packing.rows[place + 1])])

    def fill(self, batch: Batch, places: Sequence[int], indices: Sequence[int]) -> None:
        """Writes row `indices[i]` of this source into row `places[i]` of the batch."""
        rows = [self.row(index) for index in indices]
        for shard in {row.shard for row in rows}:
            mine = [(place, row.pieces) for place, row in zip(places, rows, strict=True) if row.shard == shard]
            tokens = read_tokens(self._shards[shard], np.concatenate([pieces["record"] for _, pieces in mine]).tolist())
            read = iter(tokens)
            for place, pieces in mine:
                fill_row(batch, place, [(next(read), int(piece["start"]), int(piece["length"])) for piece in pieces])

    def document_ids(self, index: int) -> list[str]:
        row = self.row(index)
        return [unpack_record(data).document_id for data in self._shards[row.shard].read(row.pieces["record"].tolist())]


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
