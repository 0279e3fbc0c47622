"""Segments of packed rows, taken out and laid down again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxllm.batch import Batch, EncoderDecoderBatch, empty_batch


def runs(segment_ids: np.ndarray) -> list[slice]:
    """Where the segments of a row `[length]` lie; padding is none."""
    edges = np.flatnonzero(np.diff(segment_ids, prepend=0, append=0))
    cuts = np.union1d(edges, [0, len(segment_ids)]).tolist()
    return [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if b > a and segment_ids[a]]


def grouped(segments: Sequence[slice], shortest: int) -> list[slice]:
    """Neighbours joined until each has `shortest` tokens; what is left over at the row's end joins the last."""
    joined: list[slice] = []
    for segment in segments:
        if joined and joined[-1].stop - joined[-1].start < shortest and joined[-1].stop == segment.start:
            joined[-1] = slice(joined[-1].start, segment.stop)
        else:
            joined.append(segment)
    if len(joined) > 1 and joined[-1].stop - joined[-1].start < shortest and joined[-2].stop == joined[-1].start:
        joined[-2:] = [slice(joined[-2].start, joined[-1].stop)]
    return joined


def raw(batch: Batch, row: int, at: slice) -> np.ndarray:
    """A segment's tokens and the one that follows its last: `[n + 1]`."""
    return np.append(batch.tokens[row, at], batch.targets[row, at.stop - 1])


def framed(batch: Batch, begin: int | None, end: int | None) -> np.ndarray:
    """A copy of the tokens in which every segment of at least 3 begins with `begin` and ends with `end`.

    A piece from the middle of a document lacks both, and a document's own end is the target of its last token. They
    take the places of what stood there, so that encoders always read what they will be given.
    """
    tokens = batch.tokens.copy()
    ids = np.pad(batch.segment_ids, ((0, 0), (2, 2)))
    long = np.zeros(batch.tokens.shape, bool)  # in a run of three, as its first, its middle or its last
    same = (ids[:, :-2] == ids[:, 1:-1]) & (ids[:, 1:-1] == ids[:, 2:]) & (ids[:, 1:-1] > 0)  # around places -1 ... n
    for shift in (0, 1, 2):
        long |= same[:, shift : shift + long.shape[1]]
    here, before, after = ids[:, 2:-2], ids[:, 1:-3], ids[:, 3:-1]
    if begin is not None:
        tokens[long & (here != before)] = begin
    if end is not None:
        tokens[long & (here != after)] = end
    return tokens


def lay(batch: Batch, row: int, begin: int, segment: int, tokens: np.ndarray, targets: np.ndarray | None = None) -> int:
    """Writes a segment into a row from place `begin` on, its targets with weight 1, and returns the place after it.

    Raises RuntimeError where it does not fit: lengths are chosen so that this cannot be, and nothing is ever cut.
    """
    end = begin + len(tokens)
    if end > batch.tokens.shape[1]:
        raise RuntimeError(f"{end} tokens in a row of {batch.tokens.shape[1]}")
    batch.tokens[row, begin:end] = tokens
    batch.segment_ids[row, begin:end] = segment
    batch.positions[row, begin:end] = np.arange(len(tokens))
    if targets is not None:
        batch.targets[row, begin:end] = targets
        batch.weights[row, begin:end] = 1
    return end


class Pairs:
    """An EncoderDecoderBatch as it is filled, segment after segment."""

    def __init__(self, rows: int, lengths: tuple[int, int]) -> None:
        self.batch = EncoderDecoderBatch(*(empty_batch(rows, length) for length in lengths))
        self._ends = np.zeros((rows, 3), int)  # of encoder and decoder, and the segments so far

    def add(self, row: int, inputs: np.ndarray, targets: np.ndarray, start: int) -> None:
        """`targets`, read by the decoder one place later, after `start`; none: the encoder's alone."""
        encoder, decoder, segment = self._ends[row].tolist()
        shifted = np.concatenate([[start], targets])[: len(targets)]
        self._ends[row] = (
            lay(self.batch.encoder, row, encoder, segment + 1, inputs),
            lay(self.batch.decoder, row, decoder, segment + 1, shifted, targets),
            segment + 1,
        )
