"""Span corruption (Raffel et al. 2020, section 3.1.4; T5): spans become sentinels, and the decoder says what they were.

Thank you for inviting me to your party last week
-> Thank you <0> me to your party <1> week </s>     and     <0> for inviting <1> last </s>
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from maxllm.batch import Batch, EncoderDecoderBatch
from maxllm.data.draws import Draw
from maxllm.data.segments import Pairs, grouped, runs
from maxllm.data.special_ids import Ids

# A document in fewer tokens is joined to its neighbour, as T5 joined all of its documents: many tiny ones would need
# rows of the encoder and the decoder that are mostly padding for everybody else.
SHORTEST = 64


def noise_counts(length: int, rate: float, span: float) -> tuple[int, int]:
    """Tokens that are noise, and spans of them: the rounding of T5's `random_spans_noise_mask`."""
    length = max(length, 2)
    noise = min(max(round(length * rate), 1), length - 1)
    return noise, min(max(round(noise / span), 1), length - noise)


def noise_mask(random: np.random.Generator, length: int, rate: float, span: float) -> np.ndarray:
    """Bool `[length]`: spans of kept and of noise tokens by turns, kept ones first, all ways to cut alike likely."""
    noise, spans = noise_counts(length, rate, span)
    kept = _cut(random, max(length, 2) - noise, spans)
    lengths = np.stack([kept, _cut(random, noise, spans)], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)[:length]


def _cut(random: np.random.Generator, total: int, parts: int) -> np.ndarray:
    """`parts` positive integers that add up to `total`, uniform among all such."""
    ends = np.sort(random.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(ends, prepend=0, append=total)


def with_sentinels(tokens: np.ndarray, replaced: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """`tokens` with each run of `replaced` ones as one sentinel, the first, the second, ..."""
    first = replaced & ~np.concatenate([[False], replaced[:-1]])
    found = np.where(first, sentinels[np.maximum(np.cumsum(first) - 1, 0)], tokens)
    return found[first | ~replaced]


def corrupt_spans(
    batch: Batch, draws: Sequence[Draw], *, ids: Ids, rate: float = 0.15, span: float = 3.0
) -> EncoderDecoderBatch:
    """`rate` of each segment's tokens, in spans of `span` on average."""
    pairs = Pairs(len(batch.tokens), lengths(batch.tokens.shape[1], ((rate, span),)))
    for row, draw in enumerate(draws):
        for at in grouped(runs(batch.segment_ids[row]), SHORTEST):
            tokens = batch.tokens[row, at]
            mask = noise_mask(draw.random, len(tokens), rate, span)
            pairs.add(row, *denoising(tokens, mask, ids), ids.start)
    return pairs.batch


def denoising(tokens: np.ndarray, mask: np.ndarray, ids: Ids) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder reads and what the decoder says, both with the end token; nothing to say without noise."""
    inputs = np.append(with_sentinels(tokens, mask, ids.sentinels), ids.end)
    targets = np.append(with_sentinels(tokens, ~mask, ids.sentinels), ids.end)
    return inputs, targets if mask.any() else targets[:0]


@functools.cache
def lengths(length: int, settings: tuple[tuple[float, float], ...], extra: int = 0) -> tuple[int, int]:
    """Of the encoder's and the decoder's rows: what rows of `length` need at most, however they are segmented.

    `settings`: (rate, span) of which each segment may get any; `extra` tokens before its inputs.
    """
    counted = np.array([[noise_counts(n, *one) for one in settings] for n in range(1, length + 1)])  # [n, settings, 2]
    noise, spans = counted[..., 0], counted[..., 1]
    inputs = (np.arange(1, length + 1)[:, None] - noise + spans + 1 + extra).max(axis=1)
    return rounded(_most(np.append(0, inputs)), length), rounded(
        _most(np.append(0, (noise + spans + 1).max(1))), length
    )


def _most(cost: np.ndarray) -> int:
    """The largest sum of `cost[part]` over ways to cut a row, or a beginning of it, into parts of at least SHORTEST."""
    best = cost.copy()
    for size in range(2 * SHORTEST, len(cost)):
        first = np.arange(SHORTEST, size - SHORTEST + 1)
        best[size] = max(cost[size], (cost[first] + best[size - first]).max())
    return int(best.max())


def rounded(needed: int, length: int) -> int:
    """Up to a multiple that kernels like, of 128 where rows are long."""
    multiple = 128 if length >= 1024 else 8
    return -(-needed // multiple) * multiple


def most_spans(length: int, settings: Sequence[tuple[float, float]]) -> int:
    """Sentinels that a segment of up to `length` tokens needs."""
    return max(noise_counts(n, *one)[1] for one in settings for n in range(1, length + 1))
