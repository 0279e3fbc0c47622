"""Masked language modelling (Devlin et al. 2019, section 3.1), drawn anew every time a row is read (RoBERTa's dynamic
masking, Liu et al. 2019, section 4.1), and BERT's pairs of sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maxllm.batch import Batch
from maxllm.data.draws import Draw
from maxllm.data.segments import framed, runs
from maxllm.data.special_ids import Ids

RATE, MASKED, REPLACED = 0.15, 0.8, 0.1  # of all tokens; of the chosen ones: hidden, another word; the rest stay
NO_LABEL = -1
SHORTEST_PAIR = 8


def mask_tokens(
    batch: Batch, draws: Sequence[Draw], *, ids: Ids, rate: float = RATE, next_sentence: bool = False
) -> Batch:
    """Tokens of which each that stands for text is chosen with probability `rate`; targets and weights are the chosen
    ones'. `noise` is a seed of each row. With `next_sentence`, segments are pairs, with types and labels."""
    batch = pair_up(batch, draws, ids) if next_sentence else batch._replace(tokens=framed(batch, ids.begin, ids.end))
    words = np.flatnonzero(ids.vocabulary).astype(np.int32)
    tokens, shape = batch.tokens, batch.tokens.shape
    where, how = np.empty(shape), np.empty(shape)
    other = np.empty(shape, np.int32)
    noise = np.empty((shape[0], 1), np.int32)
    for row, draw in enumerate(draws):
        where[row], how[row] = draw.random.random((2, shape[1]))
        other[row] = words[draw.random.integers(len(words), size=shape[1])]
        noise[row] = draw.random.integers(np.iinfo(np.int32).max)
    chosen = (batch.segment_ids > 0) & _is_text(tokens, ids) & (where < rate)
    hidden, replaced = chosen & (how < MASKED), chosen & (how >= MASKED) & (how < MASKED + REPLACED)
    seen = np.where(hidden, np.int32(ids.mask), np.where(replaced, other, tokens))
    targets = np.where(chosen, tokens, 0)
    return batch._replace(tokens=seen, targets=targets, weights=chosen.astype(np.float32), noise=noise)


def _is_text(tokens: np.ndarray, ids: Ids) -> np.ndarray:
    return ids.vocabulary[np.minimum(tokens, len(ids.vocabulary) - 1)] & (tokens < len(ids.vocabulary))


def pair_up(batch: Batch, draws: Sequence[Draw], ids: Ids) -> Batch:
    """Each segment as [CLS] A [SEP] B [SEP]: in half of them B is what follows A (label 0), in half a stretch of other
    documents (label 1). `labels` stand at a segment's first token, NO_LABEL elsewhere and where a segment is too short
    to be cut; `types` are 1 in B and the end after it."""
    begin = ids.end if ids.begin is None else ids.begin
    tokens, segment_ids = batch.tokens.copy(), batch.segment_ids.copy()
    positions = batch.positions.copy()
    types, labels = np.zeros_like(tokens), np.full_like(tokens, NO_LABEL)
    for row, draw in enumerate(draws):
        for at in runs(batch.segment_ids[row]):
            first, last = at.start, at.stop - 1
            if at.stop - at.start < SHORTEST_PAIR:
                continue
            cut = int(draw.random.integers(first + 2, last - 1))  # the place of the middle [SEP]
            labels[row, first] = draw.random.random() < 0.5
            if labels[row, first]:
                found = _stretch(draw, last - 1 - cut)
                end = cut + 1 + len(found)
                tokens[row, cut + 1 : end] = found
                for of_row in (tokens, segment_ids, positions):
                    of_row[row, end + 1 : at.stop] = 0  # padding, where the others were shorter
                last = end
            tokens[row, [first, cut, last]] = begin, ids.end, ids.end
            types[row, cut + 1 : last + 1] = 1
    weights = (segment_ids > 0).astype(np.float32)
    return batch._replace(
        tokens=tokens, segment_ids=segment_ids, positions=positions, weights=weights, types=types, labels=labels
    )


def _stretch(draw: Draw, size: int) -> np.ndarray:
    """Up to `size` successive tokens of one of another row's segments, of those that are long enough if any is."""
    row = draw.other(draw.random)
    # Not a segment's first token: a document's begin mark would give the other away.
    segments = [slice(at.start + (at.stop - at.start > 1), at.stop) for at in runs(row.segment_ids[0])]
    long = [at for at in segments if at.stop - at.start >= size] or [max(segments, key=lambda at: at.stop - at.start)]
    at = long[int(draw.random.integers(len(long)))]
    begin = at.start + int(draw.random.integers(max(at.stop - at.start - size, 0) + 1))
    return row.tokens[0, begin : min(begin + size, at.stop)]
